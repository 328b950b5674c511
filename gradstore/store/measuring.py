"""What a query costs: its plan, its rows, its time, and how much it read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from gradstore.store.database import GradientStore
from gradstore.store.sql import query, reading

COUNTERS = Path("/proc/self/io")  # Linux; rchar counts every byte that this process was given by a read


def explain_query(store: GradientStore, sql: str) -> dict[str, Any]:
    """Run ``sql`` and tell plan (text, as Polars optimised it), rows, seconds, bytes_read and store_bytes.

    bytes_read is None where the system does not count, and counts whatever else the process reads meanwhile;
    store_bytes is None of a store that is not a folder. Raises QueryError.
    """
    before, started = _bytes_read(), time.perf_counter()
    frame = query(store, sql)  # looks up the groups of functions over gradients
    plan = frame.explain()
    with reading():
        rows = frame.collect().height
    seconds, after = time.perf_counter() - started, _bytes_read()
    return {
        "plan": plan,
        "rows": rows,
        "seconds": round(seconds, 4),
        "bytes_read": None if before is None or after is None else after - before,
        "store_bytes": _size(store.uri),
    }


def _bytes_read() -> int | None:
    try:
        return int(COUNTERS.read_text(encoding="ascii").split()[1])
    except OSError:
        return None


def _size(uri: str) -> int | None:
    folder = Path(uri)
    return sum(f.stat().st_size for f in folder.rglob("*.lance") if f.is_file()) if folder.is_dir() else None
