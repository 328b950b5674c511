"""Test files → samples of role test, and which of them an evaluation asks: in-distribution or out of it.

A question that the store holds already, say as a training sample, stays what it is there, and is asked all the same:
the evaluation then says how many of its questions the model was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from gradstore.datasets import read_files
from gradstore.errors import InputFileError
from gradstore.pipelines import unsaid
from gradstore.pipelines.ingest import ingest
from gradstore.store import GradientStore

ID, OOD = "id", "ood"


@dataclass(frozen=True)
class QuestionFile:
    """A file of test questions, how it is read, and whether its questions are like those trained on."""

    path: str
    preset: str
    distribution: str  # id | ood


def ingest_questions(
    uri: str | Path,
    files: Sequence[QuestionFile],
    *,
    limit: int | None = None,
    fields: Mapping[str, str] | None = None,
    exposure: Mapping[str, str] | None = None,
    tell: Callable[[str], None] = unsaid,
) -> dict[str, str]:
    """Read the files into the store at ``uri`` and name their questions: sample id → id | ood.

    ``limit`` keeps the first N questions of each file; ``fields`` are for preset qa. A question of several files
    belongs to the first. One that the store has with another answer is rejected by ingest and left out here. Every
    file is read before the first is written. Raises InputFileError where no question is left.
    """
    common: dict[str, Any] = {"role": "test", "limit": limit, "exposure": exposure}
    found = []
    for file in files:
        own = fields if file.preset == "qa" else None
        found.append(read_files([file.path], preset=file.preset, fields=own, **common).samples)
    asked: dict[str, str] = {}
    for file, samples in zip(files, found, strict=True):
        own = fields if file.preset == "qa" else None
        ingest(uri, [file.path], preset=file.preset, fields=own, **common)
        rows = pl.DataFrame(pl.from_arrow(samples))
        agreed = _agreed(GradientStore.open(uri), rows)
        if other := rows.height - len(agreed):
            tell(f"{other} questions of {file.path} are stored with another answer and left out: see `rejects`")
        if repeated := sum(i in asked for i in agreed):
            tell(f"{repeated} questions of {file.path} are in an earlier file too and counted there")
        asked = {**dict.fromkeys(agreed, file.distribution), **asked}
    if not asked:
        raise InputFileError(f"no questions are left of {', '.join(f.path for f in files)}: look at `rejects`")
    return asked


def read_refusal_texts(path: str | Path) -> list[str]:
    """Further phrases that refuse, one a line; empty lines are left out. Raises InputFileError where there are none."""
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError(f"{path} cannot be read as text: {error}; give a file of one refusal a line") from None
    texts = [line for line in lines if line]
    if not texts:
        raise InputFileError(f"{path} is empty: give a file of one refusal a line")
    return texts


def _agreed(store: GradientStore, rows: pl.DataFrame) -> list[str]:
    """Those of the rows that are stored with an answer that they accept."""
    stored = store.scan("samples").select("sample_id", "answer", "aliases").collect()
    both = rows.select("sample_id", "answer", "aliases").join(stored, on="sample_id", how="inner", suffix="_stored")
    return [
        r["sample_id"]
        for r in both.iter_rows(named=True)
        if _accepted(r["answer"], r["aliases"]) & _accepted(r["answer_stored"], r["aliases_stored"])
    ]


def _accepted(answer: str, aliases: Sequence[str] | None) -> set[str]:
    return {a.casefold() for a in (answer, *(aliases or ()))}
