"""What an extraction will take, before it starts: rows, disk, memory; and the time, once batches have been seen."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from gradstore.errors import ResourceError

ROW_OVERHEAD = 300  # ids, scalars and the index of a row, bytes
MARGIN = 1.05
MB = 1_000_000


@dataclass(frozen=True)
class Estimate:
    """``rows`` still to be made, of ``wanted``; bytes they take on disk; bytes of memory, roughly."""

    wanted: int
    rows: int
    disk: int
    memory: int
    free: int | None  # where the store is; None for an object store
    shards: int = 1  # as many like this one are at work on the same disk

    @classmethod
    def of(cls, uri: str, wanted: int, rows: int, dim: int, memory: int, shards: int = 1) -> Estimate:
        return cls(wanted, rows, rows * (2 * dim + ROW_OVERHEAD), memory, _free(uri), shards)

    def check(self) -> None:
        """Raises ResourceError where the disk cannot hold the rows, those of the other shards included."""
        if self.free is not None and self.disk * self.shards * MARGIN > self.free:
            raise ResourceError(
                f"{self.rows} gradient rows take {self.disk / MB:.0f} MB, {self.free / MB:.0f} MB are free where the "
                "store is: make room, or store fewer floats a row with --dim; nothing was started"
            )

    def __str__(self) -> str:
        free = "" if self.free is None else f" of {self.free / MB:.0f} MB free"
        return (
            f"{self.rows} of {self.wanted} rows to make; {self.disk / MB:.0f} MB on disk{free}; "
            f"about {self.memory / MB:.0f} MB of memory"
        )

    def as_dict(self) -> dict[str, int | None]:
        """For ``--json``; sizes in bytes."""
        return {
            "wanted": self.wanted,
            "rows": self.rows,
            "disk_bytes": self.disk,
            "free_bytes": self.free,
            "memory_bytes": self.memory,
        }


def _free(uri: str) -> int | None:
    if "://" in uri:
        return None
    return shutil.disk_usage(Path(uri)).free
