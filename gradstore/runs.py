"""What a stage was asked, what it read, and whether it ended: enough to run it again, or to go on with it.

A run is named by its stage, settings and the versions of the tables that it read. A stage that was killed left
a run with status ``started``; the same command finds it, goes back to the versions it had read, makes the same
plan, and skips what is stored. So a resumed run writes the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa

from gradstore.errors import GradstoreError
from gradstore.identity import content_id
from gradstore.schemas import TABLES
from gradstore.store import GradientStore

LIBRARIES = ("gradstore", "numpy", "pyarrow", "lancedb", "pylance", "polars", "torch", "transformers", "peft")


@dataclass
class Run:
    """One stage under way. ``versions`` are those the plan is made from, also after a restart."""

    store: GradientStore
    run_id: str
    stage: str
    settings: Mapping[str, Any]
    versions: Mapping[str, int]
    resumed: bool
    counts: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    _started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """A refused command is over (``failed``); anything else, as Ctrl-C or a full disk, leaves a run to resume."""
        if isinstance(error, GradstoreError):
            self._record("failed", finished_at=datetime.now(UTC))

    def planned(self, name: str, measure: Callable[[], Any]) -> Any:
        """What the work is planned from: measured once, recorded, and the same when the run is resumed."""
        if name not in self.plan:
            self.plan[name] = measure()
            self._record("started")
        return self.plan[name]

    def finish(self, counts: Mapping[str, Any], writes: Iterable[str]) -> None:
        """Record the counts and the versions written, and tag those versions with the stage."""
        self.counts = dict(counts)
        written = self.store.versions(writes)
        self._record("finished", json.dumps(written, sort_keys=True), datetime.now(UTC))
        self.store.tag(f"{self.stage}-{self.run_id[:12]}", written)

    def _record(self, status: str, written: str | None = None, finished_at: datetime | None = None) -> None:
        row = {
            "run_id": self.run_id,
            "stage": self.stage,
            "status": status,
            "settings": json.dumps(self.settings, sort_keys=True),
            "versions_read": json.dumps(self.versions, sort_keys=True),
            "versions_written": written,
            "counts": json.dumps(self.counts, sort_keys=True) if finished_at else None,
            "plan": json.dumps(self.plan, sort_keys=True) if self.plan else None,
            "libraries": json.dumps(library_versions(), sort_keys=True),
            "started_at": self._started_at,
            "finished_at": finished_at,
        }
        self.store.write("runs", pa.Table.from_pylist([row], schema=TABLES["runs"].schema), replace=True)


def begin(store: GradientStore, stage: str, settings: Mapping[str, Any], reads: Iterable[str]) -> Run:
    """Start a stage, or go on with the one that the same settings left unfinished."""
    text = json.dumps(settings, sort_keys=True)
    unfinished = (
        store.scan("runs")
        .filter(pl.col("stage") == stage, pl.col("status") == "started", pl.col("settings") == text)
        .sort("started_at")
        .collect()
    )
    if unfinished.height:
        # Newest first: an older one of the same settings was overtaken.
        row = unfinished.row(-1, named=True)
        versions, plan = json.loads(row["versions_read"]), json.loads(row.get("plan") or "{}")
        return Run(store, row["run_id"], stage, settings, versions, True, plan=plan, _started_at=row["started_at"])
    versions = store.versions(reads)
    run_id = content_id("run", {"stage": stage, "settings": dict(settings), "versions": versions})
    run = Run(store, run_id, stage, settings, versions, resumed=False)
    run._record("started")
    return run


def library_versions() -> dict[str, str]:
    """The versions of Python and of the libraries that decide a stored number."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
