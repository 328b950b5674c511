"""SQL over a store of many samples, against Polars on the same columns in an Arrow IPC file."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import polars as pl
from query_world import bytes_asked, bytes_of, ratio, rounds_of

from gradstore.store import query
from gradstore.store.database import GradientStore

QUERIES = {
    "filter and mean": "SELECT COUNT(*) AS n, AVG(certainty) AS c FROM probes WHERE correctness < 0.5",
    "group by subject": "SELECT subject, COUNT(*) AS n, AVG(ordinal) AS o FROM samples GROUP BY subject ORDER BY 1",
    "top 10": "SELECT ordinal, subject FROM samples WHERE ordinal > 1000 ORDER BY ordinal DESC LIMIT 10",
}
COLUMNS = {"probes": ["certainty", "correctness"], "samples": ["subject", "ordinal"]}


def scalar_queries(store: GradientStore, work: Path, rounds: int) -> list[dict[str, Any]]:
    """For each query: milliseconds of both, median ratio, bytes read and their share of the store's."""
    whole, frames = bytes_of(Path(store.uri)), {}
    for table, columns in COLUMNS.items():
        file = work / f"{table}.arrow"
        store.scan(table).select(columns).collect().write_ipc(file, compression="uncompressed")
        frames[table] = pl.scan_ipc(file)
    results = []
    for name, sql in QUERIES.items():
        ways = {
            "store": lambda sql=sql: query(store, sql).collect(),
            "ipc": lambda sql=sql: pl.SQLContext(frames=frames).execute(sql, eager=False).collect(),
        }
        if not ways["store"]().equals(ways["ipc"](), null_equal=True) and name != "filter and mean":
            raise SystemExit(f"{name}: the store and the file disagree")
        times = rounds_of(ways, rounds)
        first = GradientStore.open(store.uri)  # holds nothing yet
        read = bytes_asked(lambda sql=sql, first=first: query(first, sql).collect())
        ms = {way: statistics.median(t) * 1e3 for way, t in times.items()}
        results.append(
            {"query": name, "ms": ms, "to_ipc": ratio(times, "store", "ipc"), "bytes": read, "of_store": read / whole}
        )
    return results


def some_vectors(store: GradientStore, dim: int, count: int = 100) -> dict[str, Any]:
    """A filter that returns ``count`` vectors: bytes read against the bytes of those vectors."""
    sql = f"SELECT sample_id, vector FROM gradients WHERE norm >= 200 AND norm < {200 + count}"
    found = query(store, sql).collect()
    read = bytes_asked(lambda: query(store, sql).collect())
    return {"rows": len(found), "bytes": read, "of_vectors": read / (2 * dim * len(found))}
