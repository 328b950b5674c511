"""Vectors in a store: influence against plain scans and LanceDB's search, and the memory that it takes."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import lance
import lancedb
import numpy as np
import query_world as world
from query_memory import Rows

from gradstore.influence import influence
from gradstore.store.database import VECTOR_PREFIX, GradientStore


def lance_scan(uri: str) -> None:
    """The vector column, as fast as Lance gives it at these settings; nothing is done with it."""
    scanner = lance.dataset(uri).scanner(
        columns=["vector"], batch_size=1024, batch_readahead=2, io_buffer_size=64 << 20, scan_in_order=True
    )
    for _ in scanner.to_batches():
        pass


def from_store(store: GradientStore, rows: Rows, rounds: int) -> dict[str, Any]:
    """Influence from a store against two plain scans of the column, and (c) LanceDB's search for the 10 best."""
    table = lancedb.connect(store.uri).open_table(VECTOR_PREFIX + world.RECIPE)
    uri = table.to_lance().uri

    def search() -> None:
        for mean in rows.means.astype(np.float32):
            table.search(mean, vector_column_name="vector").distance_type("dot").select(
                ["sample_id", "_distance"]
            ).limit(10).to_arrow()

    ways: dict[str, Callable[[], object]] = {
        "two scans": lambda: [lance_scan(uri), lance_scan(uri)],
        "influence": lambda: influence(lambda _: store.blocks(world.RECIPE), rows.groups, {world.CHECKPOINT: 1.0}),
        "c": search,
    }
    times = world.rounds_of(ways, rounds)
    size = rows.held.nbytes
    return {
        "rows": len(rows.held),
        "seconds": world.medians(times),
        "influence_gbs": 2 * size / statistics.median(times["influence"]) / 1e9,
        "of_lance": world.ratio(times, "two scans", "influence"),
        "c_to_influence": world.ratio(times, "c", "influence"),
    }


def peak(uri: str, rows: int) -> dict[str, Any]:
    """Memory that influence takes beyond a process that has opened the store: a process alone."""
    command = [sys.executable, __file__, uri, str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {"rows": rows, "bytes": int(done.stdout)}


def _only_peak(uri: str, rows: int) -> None:
    names = world.ids(rows)
    groups = {"known": names[::2], "unknown": names[1::2]}
    store = GradientStore.open(uri)
    influence(lambda _: store.blocks(world.RECIPE, where="norm < 64"), {"all": names[:64]}, {world.CHECKPOINT: 1.0})
    before = world.resident("VmRSS")
    influence(lambda _: store.blocks(world.RECIPE), groups, {world.CHECKPOINT: 1.0})
    print(world.resident("VmHWM") - before)


if __name__ == "__main__":
    _only_peak(sys.argv[1], int(sys.argv[2]))
