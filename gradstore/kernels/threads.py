"""Numba's threads: which layer, when they are worth waking, and one caller at a time.

Every kernel that starts threads takes ``ONE_CALLER``: the work queue ends the *process* when two threads of it launch
parallel kernels at once, as a server's would. Kernels on one thread need no lock.

A stream of blocks is faster over :func:`over_blocks`: each block on one thread, so none waits for another at the end of
every block (blocks of 16 MB on two cores: 1.6 to 2 times as fast).
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from numba import config, get_num_threads

Block = TypeVar("Block")
Result = TypeVar("Result")

# numba's OpenMP layer next to OpenBLAS was measured 7–100 times slower; its own work queue gets along. Said twice: the
# environment is what numba reads again later, the setting is what it read when something else had imported it before.
config.THREADING_LAYER = os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")  # type: ignore[attr-defined]

ONE_CALLER = threading.Lock()
MOST_AT_ONCE = 8  # blocks of a stream: 16 MB each, and memory is no faster for more
WORTH_WAKING = 1_000_000  # coordinates, 0.1–0.2 ms of work: waking the threads was measured at 0.1–0.5 ms

# Sums may be taken in another order, which fills the lanes of a vector: 8–14 times as fast. NaN and ∞ keep meaning.
REASSOCIATE = {"reassoc", "contract"}


def over_blocks(function: Callable[[Block], Result], blocks: Iterable[Block]) -> Iterator[Result]:
    """``function`` of each block, in order; as many at once as numba has threads, and no more blocks held than that
    and one. The function runs on threads of its own and must not start any: kernels take ``alone=True`` there."""
    count = min(get_num_threads(), MOST_AT_ONCE)
    with ThreadPoolExecutor(count) as pool:
        ahead: deque[Future[Result]] = deque()
        try:
            for block in blocks:
                ahead.append(pool.submit(function, block))
                if len(ahead) > count:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
