"""Files → ``samples`` and ``rejects``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa

from gradstore import runs
from gradstore.datasets import read_files
from gradstore.identity import content_id
from gradstore.schemas import TABLES
from gradstore.store import GradientStore


def ingest(
    uri: str | Path,
    files: Sequence[str | Path],
    *,
    preset: str,
    role: str = "train",
    limit: int | None = None,
    fields: Mapping[str, str] | None = None,
    split: str | None = None,
    exposure: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Read ``files`` into the store at ``uri``, which is made if need be, after every file was read.

    Returns counts: read, new, stored before, duplicates, and one a reason of rejection. A question that is stored
    with another answer is rejected; one stored under another role keeps that role and is counted.
    """
    found = read_files(files, preset=preset, role=role, limit=limit, fields=fields, split=split, exposure=exposure)
    store = GradientStore.create(uri)
    settings = {
        "files": [str(f) for f in files],
        "preset": preset,
        "role": role,
        "limit": limit,
        "fields": dict(fields or {}),
        "split": split,
    }
    run = runs.begin(store, "ingest", settings, ["samples"])
    fresh, conflicts, moved = _against_store(store, found.samples)
    written = store.write("samples", fresh)
    rejects = pa.concat_tables([found.rejects, conflicts])
    store.write("rejects", rejects)
    counts = {
        "read": found.read,
        "new": written.new,
        "stored before": written.skipped,
        "of these under another role": moved,
        "duplicates": found.duplicates,
        **{f"rejected: {reason}": n for reason, n in sorted(Counter(rejects["reason"].to_pylist()).items())},
    }
    run.finish(counts, ["samples", "rejects"])
    return counts


def _against_store(store: GradientStore, samples: pa.Table) -> tuple[pa.Table, pa.Table, int]:
    """Split off what conflicts with the store: (samples without it, its rejects, samples under another role)."""
    incoming = pl.DataFrame(pl.from_arrow(samples))
    stored = store.scan("samples").select("sample_id", "role", "answer", "aliases").collect()
    both = incoming.join(stored, on="sample_id", how="inner", suffix="_stored")
    agree = [
        bool(_accepted(r["answer"], r["aliases"]) & _accepted(r["answer_stored"], r["aliases_stored"]))
        for r in both.iter_rows(named=True)
    ]
    differing = both.filter(~pl.Series(agree, dtype=pl.Boolean))
    rejects = []
    for row in differing.iter_rows(named=True):
        content = {"stage": "ingest", "sample_id": row["sample_id"], "answer": row["answer"]}
        rejects.append(
            {
                "reject_id": content_id("reject", content),
                "stage": "ingest",
                "sample_id": row["sample_id"],
                "reason": "conflicting-answers",
                "detail": f"the store has the answer {row['answer_stored']!r}, {row['answer']!r} came",
                "raw": row["question"][:2000],
            }
        )
    kept = ~incoming["sample_id"].is_in(differing["sample_id"].to_list())
    moved = both.filter(pl.col("role") != pl.col("role_stored")).height
    schema = TABLES["rejects"].schema
    return samples.filter(kept.to_arrow()), pa.Table.from_pylist(rejects, schema=schema), moved


def _accepted(answer: str, aliases: Sequence[str] | None) -> set[str]:
    return {a.casefold() for a in (answer, *(aliases or ()))}
