"""Numbers with intervals as text: metrics down, scopes across; subjects below; then what is undefined, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
OF_SUBJECTS = ("n", "correct", "wrong", "refused", "unparsed", "ths", "over_refusal", "hallucinations_fixed")


def metric_lines(rows: Sequence[Row]) -> list[str]:
    """The rows of ``metrics`` of one evaluation, readable."""
    wide = [r for r in rows if r["subject"] is None]
    scopes = list(dict.fromkeys(r["scope"] for r in wide))
    metrics = list(dict.fromkeys(r["metric"] for r in wide))
    cells = {(r["metric"], r["scope"]): _interval(r["value"], r["low"], r["high"]) for r in wide}
    counts = {r["scope"]: str(r["n"]) for r in reversed(wide)}
    lines = _table(
        ["", *scopes],
        [
            ["questions", *(counts[s] for s in scopes)],
            *([metric, *(cells.get((metric, s), "") for s in scopes)] for metric in metrics),
        ],
    )
    return [*lines, *_subject_lines(rows), *note_lines(wide)]


def difference_lines(rows: Sequence[Row], a: str, b: str) -> list[str]:
    """Paired differences, a scope after the other."""
    body = []
    for row in rows:
        own = [_number(row["a"]), _number(row["b"])]
        change = _interval(row["difference"], row["low"], row["high"])
        body.append([row["scope"], row["metric"], str(row["n"]), *own, change])
    return [*_table(["scope", "metric", "n", a, b, f"{b} − {a}"], body, left=2), *note_lines(rows)]


def transition_lines(table: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Initial verdict down, verdict across."""
    across = list(table)
    body = [[before, *(str(after[v]) for v in across)] for before, after in table.items()]
    return ["", *_table(["initial \\ now", *across], body)]


def disagreement_lines(first: Sequence[Row]) -> list[str]:
    """The questions on which the judges differ, two lines each."""
    lines = []
    for row in first:
        lines.append(f"{row['sample_id']}  {row['verdict']}, reference {row['verdict_reference']}: {row['question']}")
        lines.append(f"  answer {row['answer']!r}, output {row['output']!r}")
    return lines


def note_lines(rows: Sequence[Row]) -> list[str]:
    """Each remark once, with what it is about."""
    about: dict[str, list[str]] = {}
    for row in rows:
        if row["note"]:
            about.setdefault(row["note"], []).append(f"{row['metric']} ({row['scope']})")
    return [f"{', '.join(names)}: {note}" for note, names in about.items()]


def _subject_lines(rows: Sequence[Row]) -> list[str]:
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["subject"] is not None:
            cells.setdefault(row["subject"], {"n": str(row["n"])})[row["metric"]] = _number(row["value"])
    columns = [c for c in OF_SUBJECTS if any(c in cell for cell in cells.values())]
    body = [[subject, *(cell.get(c, "–") for c in columns)] for subject, cell in cells.items()]
    return ["", *_table(["subject", *columns], body)] if body else []


def _table(head: Sequence[str], body: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Columns as wide as their widest cell; the first ``left`` flush left, the others flush right."""
    rows = [head, *body]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return [
        "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or low is None or high is None:
        return _number(value)
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
