"""Read question files: every record becomes a sample, a duplicate or a reject, and none is lost.

Conflicts are decided over everything that was read, then the samples are cut to the limit. So the samples
under limit N are the first N of those under any higher limit, whatever the files hold further down.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa

from gradstore.datasets.files import Record
from gradstore.datasets.presets import PRESETS, QA_FIELDS, Preset, described
from gradstore.datasets.records import Drop, Question
from gradstore.datasets.sources import Source, open_sources
from gradstore.datasets.text import brief, printable
from gradstore.errors import InputFileError
from gradstore.identity import content_id, normalise_question
from gradstore.schemas import TABLES

ROLES = ("train", "demo", "test")
STAGE = "ingest"
RAW_LENGTH = 2000
SHAPELESS = {"missing-field", "undecodable"}


@dataclass(frozen=True)
class Ingested:
    """What was read. Without a limit, ``read`` = samples + duplicates + rejects."""

    samples: pa.Table  # as TABLES["samples"], in file order; sample ids are unique
    rejects: pa.Table  # as TABLES["rejects"], in file order; reject ids are unique
    read: int  # records
    duplicates: int  # records whose question was already there with the same answer


@dataclass(frozen=True)
class _Entry:
    """A record, where it came from, and what its parser made of it."""

    source: Source
    record: Record
    outcome: Question | Drop

    @property
    def sample_id(self) -> str | None:
        return self.outcome.id if isinstance(self.outcome, Question) else None


def read_files(
    paths: Sequence[str | Path],
    *,
    preset: str,
    role: str = "train",
    limit: int | None = None,
    fields: Mapping[str, str] | None = None,
    split: str | None = None,
    exposure: Mapping[str, str] | None = None,
) -> Ingested:
    """Read files, folders or Hugging Face data sets through ``preset``.

    ``limit`` keeps the first N accepted samples; what lies behind is still read, counted and reported.
    ``fields`` (preset qa) maps a field to the column that holds it. ``split`` picks a split of a data set and
    names the split of the samples; without it a file's `_test`, `_dev` or `_val`, or its stem, does.
    ``exposure`` maps sample ids to values of that column.

    Of records that ask one question, the first is kept and the others are duplicates. If any two of them
    conflict, all are rejects: options are lettered differently, or, for open questions, neither's answer is
    among the other's aliases (case and white space aside).

    Raises InputFileError for an unknown preset, role or field, and for a file that is missing, empty, not
    what its suffix says, or without any record of the preset's shape; MissingExtra without the extra `hf`.
    """
    chosen, columns = _checked(preset, role, limit, fields)
    entries = [e for source in open_sources(paths, chosen, split) for e in _parsed(source, chosen, columns)]
    conflicts = _conflicts(entries)
    accepted: dict[str, dict[str, object]] = {}
    rejects, duplicates = [], 0
    for entry in entries:
        outcome = conflicts.get(entry.sample_id or "", entry.outcome)
        if isinstance(outcome, Drop):
            rejects.append(_reject_row(entry, outcome))
        elif entry.sample_id in accepted:
            duplicates += 1
        else:
            row = _sample_row(entry.source, outcome, preset, exposure or {})
            accepted[outcome.id] = {**row, "role": role, "ordinal": len(accepted)}
    samples = _table("samples", list(accepted.values())[:limit])
    return Ingested(samples, _table("rejects", rejects), len(entries), duplicates)


def _checked(
    preset: str, role: str, limit: int | None, fields: Mapping[str, str] | None
) -> tuple[Preset, Mapping[str, str]]:
    if preset not in PRESETS:
        raise InputFileError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    if role not in ROLES:
        raise InputFileError(f"unknown role {role!r}: choose one of {', '.join(ROLES)}")
    if limit is not None and limit < 0:
        raise InputFileError(f"limit is {limit}, 0 or more was expected")
    if fields and preset != "qa":
        raise InputFileError(f"preset {preset} has fields of its own: use --preset qa with --field")
    unknown = sorted(set(fields or {}) - set(QA_FIELDS))
    if unknown:
        raise InputFileError(f"unknown fields {', '.join(unknown)}: choose from {', '.join(QA_FIELDS)}")
    return PRESETS[preset], fields or {}


def _parsed(source: Source, preset: Preset, columns: Mapping[str, str]) -> list[_Entry]:
    _check_columns(source, columns)
    entries = list(_entries(source, preset, columns))
    if all(isinstance(e.outcome, Drop) and e.outcome.reason in SHAPELESS for e in entries):
        raise InputFileError(_shapeless(source, preset))
    return entries


def _entries(source: Source, preset: Preset, columns: Mapping[str, str]) -> Iterator[_Entry]:
    for record in source.records:
        if record.fields is None:
            outcome: Question | Drop = Drop("undecodable", record.fault or "")
        else:
            outcome = preset.parse(_renamed(record.fields, columns))
        yield _Entry(source, record, outcome)


def _renamed(fields: Mapping[str, Any], columns: Mapping[str, str]) -> Mapping[str, Any]:
    """Put each mapped column under its field's name; a column that happens to have that name steps aside."""
    if not columns:
        return fields
    mapped = {field: fields[column] for field, column in columns.items() if column in fields}
    return {name: value for name, value in fields.items() if name not in columns} | mapped


def _check_columns(source: Source, columns: Mapping[str, str]) -> None:
    there = dict.fromkeys(name for r in source.records for name in r.fields or {}) if columns else {}
    absent = [column for column in columns.values() if column not in there]
    if absent:
        text = f"{source.name}: no column {', '.join(absent)}; the columns there are: {', '.join(there)}"
        raise InputFileError(printable(text))


def _shapeless(source: Source, preset: Preset) -> str:
    """Say what a file holds instead of the preset's records, and which presets read it."""
    fields = next((r.fields for r in source.records if r.fields is not None), {})
    found = described(fields) if fields else source.records[0].fault
    fitting = [p.name for p in PRESETS.values() if any(shape.fits(fields) for shape in p.shapes)]
    way_out = " or ".join(fitting) or "qa with --field question=<column>"
    return printable(
        f"{source.name}: no record is as preset {preset.name} reads it: found {found}, "
        f"expected {preset.expected}; use --preset {way_out}"
    )


def _conflicts(entries: list[_Entry]) -> dict[str, Drop]:
    """Find the questions with answers that exclude each other: sample id → why."""
    asked: dict[str, dict[Question, None]] = defaultdict(dict)
    for entry in entries:
        if isinstance(entry.outcome, Question):
            asked[entry.outcome.id][entry.outcome] = None
    return {
        name: Drop("conflicting-answers", f"answers: {_answers(questions)}")
        for name, questions in asked.items()
        if any(_exclude(one, other) for one, other in combinations(questions, 2))
    }


def _answers(questions: Iterable[Question]) -> str:
    return ", ".join(dict.fromkeys(brief(question.answer) for question in questions))


def _exclude(one: Question, other: Question) -> bool:
    if one.aliases is None or other.aliases is None:
        return one.answer != other.answer
    return not (_accepts(one.aliases, other.answer) or _accepts(other.aliases, one.answer))


def _accepts(aliases: Sequence[str], answer: str) -> bool:
    return _folded(answer) in map(_folded, aliases)


def _folded(answer: str) -> str:
    return normalise_question(answer).casefold()


def _sample_row(source: Source, question: Question, preset: str, exposure: Mapping[str, str]) -> dict[str, object]:
    return {
        "sample_id": question.id,
        "source": source.hub_id or preset,
        "split": source.split,
        "subject": question.subject or source.subject,
        "task": question.task,
        "question": question.text,
        "choices": question.choices,
        "answer": question.answer,
        "aliases": question.aliases,
        "exposure": exposure.get(question.id),
    }


def _reject_row(entry: _Entry, drop: Drop) -> dict[str, object]:
    row: dict[str, object] = {
        "stage": STAGE,
        "file": printable(entry.source.name),
        "line": entry.record.line,
        "reason": drop.reason,
        "raw": printable(entry.record.raw)[:RAW_LENGTH],
    }
    name = content_id("reject", row)
    return {"reject_id": name, **row, "sample_id": entry.sample_id, "detail": printable(drop.detail)}


def _table(name: str, rows: list[dict[str, object]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=TABLES[name].schema)
