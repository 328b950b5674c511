"""A child process that answers one question at a time, and is stopped when it takes too long or too much.

The kernels' threads are not safe to call from several threads at once, a query of a user may need any
amount of time and memory, and neither may take the server with it. So both are asked of a child.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gradstore.errors import GradstoreError, QueryError

MB = 1 << 20
STARTING = 60  # seconds that a call may wait for a child's imports, beside its turn


class Child:
    """A spawned process that calls module-level functions; it starts when first needed, and again after it died.

    ``seconds`` is the longest that one call may take; ``memory`` how many bytes it may claim beyond what the
    child holds once ``preload`` (a module) is imported; ``None`` sets no limit.
    """

    def __init__(self, seconds: float, memory: int | None = None, preload: str | None = None) -> None:
        self.seconds = seconds
        self._arguments = (memory, preload)
        self._memory = memory
        self._turn = threading.Lock()
        self._process: Any = None
        self._pipe: Connection | None = None
        self._closed = False

    def start(self) -> None:
        """Start the process ahead of the first call, so that the call does not wait for its imports."""
        with self._turn, contextlib.suppress(QueryError, EOFError):  # whoever asks will hear of it
            self._running()

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call ``function(*arguments)`` in the child; both are pickled, and so is what it returns.

        A second call waits for its turn, as long as a call may take. Raises QueryError where the call fails,
        takes too long, needs too much memory, or kills the child; the next call gets a new one.
        """
        if not self._turn.acquire(timeout=self.seconds + STARTING):
            raise QueryError("other questions are still being answered: ask again when they have ended")
        try:
            pipe = self._running()
            pipe.send((function, arguments))
            if not pipe.poll(self.seconds):
                self._stop()
                raise QueryError(
                    f"stopped after {self.seconds:g} s: ask for less, or use the command line, which has no limit"
                )
            done, value = pipe.recv()
        except (EOFError, ConnectionError, BrokenPipeError):
            raise QueryError(self._last_words()) from None
        finally:
            self._turn.release()
        if not done:
            raise QueryError(value)
        return value

    def close(self) -> None:
        """End the process, also in the middle of a call, for good."""
        self._closed = True
        self._stop()

    def _running(self) -> Connection:
        if self._closed:
            raise QueryError("the page was closed: start `gradstore explore` again")
        if self._pipe is None or not self._process.is_alive():
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
            self._process.start()
            theirs.close()  # so that the end of the child is the end of the pipe
            self._pipe.recv()  # it is ready: a call's seconds begin after its imports
        return self._pipe

    def _stop(self) -> None:
        process = self._process
        if process is not None and process.is_alive():
            process.kill()
            process.join()

    def _last_words(self) -> str:
        self._process.join(5)
        code = self._process.exitcode
        if code == -signal.SIGABRT and self._memory:  # what an allocation that fails ends in, in native code
            return f"stopped: it needs more than {self._memory // MB} MB of memory; name fewer columns or rows"
        return f"the query process ended with code {code}; the page goes on, and the next query gets a new one"


def _serve(pipe: Connection, memory: int | None, preload: str | None) -> None:
    """The child: read a call, make it, send what came out; ends when the pipe does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends its children
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)  # native code prints its own account of a panic
    if preload:
        importlib.import_module(preload)
    if memory is not None:
        _limit(memory)
    pipe.send("ready")
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = (True, function(*arguments))
        except GradstoreError as error:
            answer = (False, str(error))
        except MemoryError:
            answer = (False, f"it needs more than {(memory or 0) // MB} MB of memory; name fewer columns or rows")
        except BaseException as error:  # a panic of Polars is no Exception
            answer = (False, f"it failed: {type(error).__name__}: {_one_line(error)}")
        with contextlib.suppress(BrokenPipeError):
            pipe.send(answer)


def _limit(memory: int) -> None:
    """Let this process claim ``memory`` bytes more than it has now (Linux; elsewhere only time is limited).

    The limit is on data (RLIMIT_DATA), not on addresses (RLIMIT_AS): Polars' and Lance's allocators and
    threads reserve gigabytes of addresses that they never touch, 3 GB after a query over 2,700 rows. Data
    counts what is writable; the stacks of threads are part of it, hence the count from what is there.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return
    import resource

    line = next(line for line in status.read_text().splitlines() if line.startswith("VmData"))
    limit = int(line.split()[1]) * 1024 + memory
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]
