"""Asking a store, side by side: influence, herding, neighbours, SQL. Ratios of one run, on one machine.

python benchmarks/query.py [--rows 14042,100000] [--scalars 1000000] [--dim 8192] [--rounds 7] [--work DIR]
    [--faiss ENV] [--bergson ENV] [--parts memory,store,rivals,growth,peak,picks,sql] [--json FILE]

Against the read bandwidth of this machine, measured in the same rounds; a plain Lance scan; (a) the N×N Gram of the
released GRAIT code, (b) a float32 matrix product, (c) LanceDB's brute-force search, (d) FAISS flat, (e) the scorer
of bergson.
FAISS lives in an environment of its own (default build/faiss, made on the first run), bergson in that of
benchmarks/extraction.py (default build/rivals). 100,000 rows of 8192 take 10 GB of memory and 4 of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import query_world as world
from query_memory import Rows, growth, in_memory, picks
from query_rivals import rivals
from query_sql import scalar_queries, some_vectors
from query_store import from_store, peak

from gradstore.store.database import GradientStore

PARTS = ("memory", "store", "rivals", "growth", "peak", "picks", "sql")


def flat(found: dict[str, Any], under: str = "") -> list[tuple[str, str]]:
    """Name and printed number of everything that was found."""
    cells: list[tuple[str, str]] = []
    for name, value in found.items():
        if isinstance(value, dict):
            cells += flat(value, f"{under}{name} ")
        elif "bytes" in name:
            cells.append((under + name, f"{value / 1e6:,.1f} MB"))
        elif isinstance(value, float):
            cells.append((under + name, f"{value:.4g}"))
        else:
            cells.append((under + name, str(value)))
    return cells


def show(title: str, found: dict[str, Any], results: dict[str, list[Any]]) -> None:
    results.setdefault(title, []).append(found)
    print(f"\n### {title}\n\n| what | |\n|---|---|")
    for name, value in flat(found):
        print(f"| {name.replace('_', ' ')} | {value} |", flush=True)


def ask(given: argparse.Namespace, work: Path) -> dict[str, list[Any]]:
    """Every part for every number of rows; what was found is printed as it comes."""
    results: dict[str, list[Any]] = {}
    sizes = [int(n) for n in given.rows.split(",")]
    for count in sizes:
        rows = Rows(world.vectors(count, given.dim))
        if "memory" in given.parts:
            show("memory", in_memory(rows, given.rounds), results)
        if "growth" in given.parts:
            for found in growth(rows.held, given.rounds):
                show("growth", found, results)
        if "picks" in given.parts:
            show("picks", picks(rows, min(1000, count), count if count <= 20_000 else 1000), results)
        if "rivals" in given.parts:
            for found in rivals(given, rows, work):
                show("rivals", found, results)
        if not {"store", "peak", "sql"} & set(given.parts):
            continue
        store = GradientStore.create(work / f"store-{count}")
        took = world.seconds(lambda store=store, rows=rows: world.write_vectors(store, rows.held))
        show("written", {"rows": count, "seconds": took}, results)
        if "store" in given.parts:
            show("store", from_store(store, rows, given.rounds), results)
        if "peak" in given.parts:
            show("peak", peak(store.uri, count), results)
        if "sql" in given.parts and count == sizes[-1]:
            took = world.seconds(lambda store=store: world.write_scalars(store, given.scalars))
            show("written", {"scalars": given.scalars, "seconds": took}, results)
            for found in scalar_queries(store, work, 3 * given.rounds):
                show("sql", found, results)
            show("sql", some_vectors(store, given.dim), results)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="14042,100000")
    parser.add_argument("--scalars", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--work", type=Path, help="an empty folder to work in; by default one that is removed")
    parser.add_argument("--faiss", type=Path, default=Path("build/faiss"))
    parser.add_argument("--bergson", type=Path, default=Path("build/rivals"))
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {given.threads} threads, numpy {np.__version__}")
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        results = ask(given, Path(folder))
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
