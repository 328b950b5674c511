"""One stage on several devices or machines: each takes the samples whose id hashes to it. Nothing waits for another.

There are no collectives, so nothing hangs: a shard that dies leaves its rows, and the same command fills the rest.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import re
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gradstore.errors import GradstoreError
from gradstore.pipelines import Progress, silent, unsaid

GRACE = 60  # seconds a process has to end
THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count``, 0 ≤ index < count."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``i/n``, for example 0/8 … 7/8. Raises GradstoreError."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or int(match[1]) >= int(match[2]):
            raise GradstoreError(f"shard {text!r}: expected I/N with 0 ≤ I < N, for example 0/8 … 7/8")
        return cls(int(match[1]), int(match[2]))

    def holds(self, sample_id: str) -> bool:
        """Whether a sample is this shard's: its id is a hash, so its leading digits are as good as random."""
        return int(sample_id[:12], 16) % self.count == self.index

    def of(self, samples: dict[str, Any]) -> dict[str, Any]:
        return samples if self.count == 1 else {i: s for i, s in samples.items() if self.holds(i)}

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


WHOLE = Shard()


def on_devices(
    stage: Callable[..., dict[str, Any]],
    devices: Sequence[str],
    progress: Progress = silent,
    tell: Callable[[str], None] = unsaid,
) -> dict[str, Any]:
    """Run ``stage(device, shard, progress, tell)`` in one process a device; counts are added up.

    Raises GradstoreError with every device's error once all have ended: what the others wrote stays.
    """
    if not devices:
        raise GradstoreError("no device was named: expected --devices 0,1 or cpu,cpu")
    context = multiprocessing.get_context("spawn")
    said: Any = context.Queue()
    threads = os.environ.get(THREADS)
    if all(d.startswith("cpu") for d in devices):  # or each would start as many threads as there are cores
        os.environ.setdefault(THREADS, str(max(1, (os.cpu_count() or 1) // len(devices))))
    workers = [
        context.Process(target=_work, args=(stage, d, Shard(i, len(devices)), said)) for i, d in enumerate(devices)
    ]
    try:
        for worker in workers:
            worker.start()
    finally:
        if threads is None:
            os.environ.pop(THREADS, None)
    results: dict[int, dict[str, Any]] = {}
    errors: dict[int, str] = {}
    try:
        while len(results) + len(errors) < len(workers):
            _listen(said, workers, devices, results, errors, progress, tell)
    finally:
        for worker in workers:
            worker.join(GRACE)  # after Ctrl-C each still writes what it has made
            if worker.is_alive():
                worker.terminate()
    if errors:
        raise GradstoreError("; ".join(f"on device {devices[i]}: {text}" for i, text in sorted(errors.items())))
    return combined([results[i] for i in sorted(results)])


def combined(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One summary of several: counts and rates add up, seconds and peaks are the largest, the rest is the first's."""
    total: dict[str, Any] = {}
    counts = Counter({k: 0 for r in results for k in r})
    for key in counts:
        values = [r[key] for r in results if key in r]
        number = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        if number and key not in ("checkpoints", "batch_tokens"):
            total[key] = max(values) if key in ("seconds", "peak_mb", "free_bytes") else sum(values)
        else:
            total[key] = values[0]
    return total


def _listen(
    said: Any,
    workers: Sequence[Any],
    devices: Sequence[str],
    results: dict[int, dict[str, Any]],
    errors: dict[int, str],
    progress: Progress,
    tell: Callable[[str], None],
) -> None:
    try:
        kind, index, content = said.get(timeout=0.5)
    except queue.Empty:
        for i, worker in enumerate(workers):
            if i not in results and i not in errors and worker.exitcode is not None:
                code = worker.exitcode
                how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
                errors[i] = f"its process {how}; what the others wrote stays, and the same command fills the rest"
        return
    if kind == "progress":
        stage, done, total, note = content
        progress(f"{stage}, {index}: {devices[index]}", done, total, note)
    elif kind == "tell":
        tell(f"{devices[index]}: {content}")
    elif kind == "result":
        results[index] = content
    else:
        errors[index] = content
        tell(f"{devices[index]} has failed, the others go on: {content}")


def _work(stage: Callable[..., dict[str, Any]], device: str, shard: Shard, said: Any) -> None:
    def progress(name: str, done: int, total: int, note: str = "") -> None:
        said.put(("progress", shard.index, (name, done, total, note)))

    try:
        said.put(("result", shard.index, stage(device, shard, progress, lambda t: said.put(("tell", shard.index, t)))))
    except KeyboardInterrupt:
        said.put(("error", shard.index, "interrupted"))
    except Exception as error:
        said.put(("error", shard.index, str(error) or type(error).__name__))
