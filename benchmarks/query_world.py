"""What benchmarks/query.py asks: clustered vectors, a store that holds them, and what the machine can do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
from numba import njit, prange

from gradstore.schemas import TABLES, gradients
from gradstore.store.database import GradientStore

RECIPE, CHECKPOINT = "0" * 32, "1" * 32
CLUSTERS, CHUNK = 64, 1024
SUBJECTS = 57


def vectors(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """Unit rows around 64 centres, cosine about 0.5 within a cluster: (rows, dim) float16."""
    draws = np.random.default_rng(seed)
    centres = draws.standard_normal((CLUSTERS, dim), dtype=np.float32)
    out = np.empty((rows, dim), np.float16)
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        noise = draws.standard_normal((count, dim), dtype=np.float32)
        block = centres[draws.integers(0, CLUSTERS, count)] + noise
        out[start : start + count] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return out


def ids(rows: int) -> list[str]:
    return [f"{i:032x}" for i in range(rows)]


def write_vectors(store: GradientStore, held: np.ndarray) -> None:
    """Through the store's own checks and merges, a commit a chunk."""
    names, kind = ids(len(held)), gradients(held.shape[1]).schema.remove_metadata()
    for start in range(0, len(held), CHUNK):
        block, part = held[start : start + CHUNK], names[start : start + CHUNK]
        n = len(block)
        values = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), held.shape[1])
        columns = {
            "row_id": part,
            "sample_id": part,
            "response": ["refusal"] * n,
            "checkpoint_id": [CHECKPOINT] * n,
            "recipe_id": [RECIPE] * n,
            "vector": values,
            "norm": pa.array(np.arange(start, start + n), pa.float32()),
            "loss": pa.array(np.ones(n), pa.float32()),
            "n_tokens": pa.array(np.full(n, 8), pa.int32()),
            "status": ["ok"] * n,
        }
        store.write("gradients", pa.table([columns[f.name] for f in kind], schema=kind))


def write_scalars(store: GradientStore, rows: int) -> None:
    """``samples`` and ``probes`` of ``rows`` questions: what a query without vectors reads.

    Appended through LanceDB, 65,536 rows a fragment. The store's own commits of 1024 rows look each key up, and a
    table of hundreds of them, with an index that none of them is in yet, was measured at a second a commit.
    """
    draws, database = np.random.default_rng(1), lancedb.connect(store.uri)
    names, size = ids(rows), 65536
    for start in range(0, rows, size):
        part = names[start : start + size]
        n = len(part)
        given = {
            "sample_id": part,
            "source": ["made"] * n,
            "role": ["train"] * n,
            "subject": [f"subject {s}" for s in draws.integers(0, SUBJECTS, n)],
            "task": ["oeqa"] * n,
            "question": [f"What is the value of item {i}?" for i in range(start, start + n)],
            "answer": ["42"] * n,
            "ordinal": np.arange(start, start + n),
        }
        database.open_table("samples").add(_table("samples", given, n))
        numbers = draws.random((3, n), dtype=np.float32)
        given = {
            "row_id": part,
            "sample_id": part,
            "probe_id": ["p" * 32] * n,
            "model_id": ["m" * 32] * n,
            "prompt_id": ["t" * 32] * n,
            "correctness": numbers[0],
            "certainty": numbers[1],
            "entropy": numbers[2],
            "n_samples": np.full(n, 10),
            "status": ["ok"] * n,
        }
        database.open_table("probes").add(_table("probes", given, n))


def _table(name: str, given: dict, rows: int) -> pa.Table:
    schema = TABLES[name].schema.remove_metadata()
    columns = [pa.array(given[f.name], f.type) if f.name in given else pa.nulls(rows, f.type) for f in schema]
    return pa.table(columns, schema=schema)


def blocks(held: np.ndarray, rows: int = 1024) -> list[tuple[pa.RecordBatch, np.ndarray]]:
    """The rows in memory, as a store would stream them."""
    names, parts = ids(len(held)), [slice(start, start + rows) for start in range(0, len(held), rows)]
    return [(pa.RecordBatch.from_pydict({"sample_id": names[p]}), held[p].view(np.uint16)) for p in parts]


@njit(parallel=True, cache=True)
def _sum(words):
    total = np.uint64(0)
    for i in prange(words.size):
        total += words[i]
    return total


def read_once(buffer: np.ndarray) -> None:
    """All threads read a buffer and do next to nothing with it: what the memory delivers."""
    _sum(buffer.reshape(-1).view(np.uint64))


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def rounds_of(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, in turns, after one turn that is not counted: noise meets all of them alike."""
    for run in ways.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            times[name].append(seconds(run))
    return times


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(t) for name, t in times.items()}


def ratio(times: dict[str, list[float]], name: str, to: str) -> float:
    """Median over rounds of name's time over that of ``to`` in the same round."""
    return statistics.median(a / b for a, b in zip(times[name], times[to], strict=True))


def bytes_asked(run: Callable[[], object]) -> int:
    """Bytes that this process asked of files, cached or not (rchar)."""

    def count() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = count()
    run()
    return count() - before


def bytes_of(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def resident(line: str) -> int:
    """Bytes, by a line of /proc/self/status: VmRSS now, VmHWM at its highest."""
    found = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(f"{line}:"))
    return int(found.split()[1]) * 1024
