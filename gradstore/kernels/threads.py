"""Numba's threads: which layer, when they are worth waking, and one caller at a time.

Every kernel that starts threads takes ``ONE_CALLER``: the work queue ends the *process* when two threads of it launch
parallel kernels at once, as a server's would. Kernels on one thread need no lock.
"""

from __future__ import annotations

import os
import threading

from numba import config

# numba's OpenMP layer next to OpenBLAS was measured 7–100 times slower; its own work queue gets along. Said twice: the
# environment is what numba reads again later, the setting is what it read when something else had imported it before.
config.THREADING_LAYER = os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")  # type: ignore[attr-defined]

ONE_CALLER = threading.Lock()
WORTH_WAKING = 1_000_000  # coordinates, 0.1–0.2 ms of work: waking the threads was measured at 0.1–0.5 ms

# Sums may be taken in another order, which fills the lanes of a vector: 8–14 times as fast. NaN and ∞ keep meaning.
REASSOCIATE = {"reassoc", "contract"}
