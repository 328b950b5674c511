"""Work beside the device's: batches are made ready ahead of it, and what it made is written behind it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
DONE = object()


def ahead(items: Iterable[T], depth: int = 4) -> Iterator[T]:
    """Run an iterator on a thread of its own, at most ``depth`` items before its reader. What it raises comes here."""
    ready: queue.Queue[Any] = queue.Queue(depth)
    stopped = threading.Event()

    def offer(item: Any) -> bool:
        """Wait for room in the queue; False where the reader is gone."""
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            if all(offer((item, None)) for item in items):
                offer((DONE, None))
        except BaseException as error:
            offer((DONE, error))

    threading.Thread(target=run, daemon=True, name="gradstore-ahead").start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is DONE:
                return
            yield item
    finally:
        stopped.set()


class Behind:
    """Calls a function on a thread of its own, in order, at most ``depth`` calls behind.

    A slow disk makes the caller wait; it never makes the queue grow. On leaving, everything that was handed over is
    done, also after an error or Ctrl-C in the caller; an error of the function itself is raised at the next call.
    """

    def __init__(self, function: Callable[..., None], depth: int = 2) -> None:
        self._function = function
        self._waiting: queue.Queue[Any] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="gradstore-behind")

    def __enter__(self) -> Behind:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._waiting.put(DONE)
        self._thread.join()
        if kind is None:
            self._check()

    def __call__(self, *arguments: Any) -> None:
        self._check()
        self._waiting.put(arguments)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (arguments := self._waiting.get()) is not DONE:
            if self._error is None:
                try:
                    self._function(*arguments)
                except BaseException as error:
                    self._error = error
