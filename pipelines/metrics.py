"""``evaluations`` → ``metrics``: every number of an evaluation with its interval, by scope and by subject.

A scope is a set of questions: all of them, the in- or out-of-distribution ones, or those of one source and split.
Numbers of one evaluation by itself have ``against`` null; those beside the initial model are over the questions that
both answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import polars as pl
import pyarrow as pa

from gradstore.errors import StoreError
from gradstore.evaluation import (
    ALONE,
    Interval,
    Ranked,
    against,
    alone,
    aurc_interval,
    by_subject,
    joint_counts,
    paired,
    paired_aurc,
    transitions,
)
from gradstore.evaluation import measure as value_of
from gradstore.identity import row_id
from gradstore.judging import CORRECT, REFUSED
from gradstore.pipelines import unsaid
from gradstore.pipelines.evaluate import quoted
from gradstore.schemas import TABLES
from gradstore.store import GradientStore


def measure(
    store: GradientStore, name: str, initial: str | None = None, *, seed: int = 0, tell: Callable[[str], None] = unsaid
) -> list[dict[str, Any]]:
    """Compute, store and return the rows of ``metrics`` of one evaluation; with ``initial``, those beside it too.

    Rows of an earlier measurement are replaced. Raises StoreError where there is no such evaluation, or where the two
    have no question in common.
    """
    frame = read_evaluation(store, name)
    rows = [_row(name, None, *number) for number in _numbers(frame, seed)]
    if initial is not None:
        both = _beside(store, frame, name, initial, tell)
        rows += [_row(name, initial, *number) for number in _numbers(both, seed, beside=True)]
    replaced = "against IS NULL" if initial is None else f"against IS NULL OR against = {quoted(initial)}"
    store.delete("metrics", f"evaluation = {quoted(name)} AND ({replaced})")
    store.write("metrics", pa.Table.from_pylist(rows, schema=TABLES["metrics"].schema))
    return rows


def report(
    store: GradientStore, name: str, initial: str | None = None, *, seed: int = 0, tell: Callable[[str], None] = unsaid
) -> dict[str, Any]:
    """Measure an evaluation and put together what there is to say of it.

    n and the metrics of all questions by name; ``metrics``, the rows as stored; ``transitions`` and, for a lab model,
    ``refused_by_exposure`` where there is an initial model; ``judges_disagree`` and the first ``disagreements``.
    """
    rows = measure(store, name, initial, seed=seed, tell=tell)
    count, first = disagreements(store, name)
    found: dict[str, Any] = {"evaluation": name, "against": initial, "n": rows[0]["n"]}
    found |= {r["metric"]: r["value"] for r in rows if r["scope"] == "all"}
    if initial is not None:
        both = _beside(store, read_evaluation(store, name), name, initial, unsaid)
        found["transitions"] = transitions(both["initial"].to_list(), both["verdict"].to_list())
        if both["exposure"].null_count() < both.height:
            refused = both.group_by("exposure").agg((pl.col("verdict") == REFUSED).mean()).sort("exposure")
            found["refused_by_exposure"] = {e or "unknown": share for e, share in refused.iter_rows()}
    kept = ("scope", "subject", "metric", "value", "low", "high", "n", "note", "against")
    return {
        **found,
        "metrics": [{k: r[k] for k in kept} for r in rows],
        "judges_disagree": count,
        "disagreements": first,
    }


def differences(
    store: GradientStore, a: str, b: str, initial: str, *, seed: int = 0, tell: Callable[[str], None] = unsaid
) -> list[dict[str, Any]]:
    """b − a of every metric in every scope, with paired intervals: two refined models on the same questions.

    Each row: scope, metric, ``a`` and ``b`` (their own values), difference, low, high, n, note. Nothing is stored.
    Raises StoreError where an evaluation is missing, or where the three have no question in common.
    """
    first = read_evaluation(store, a)
    second = read_evaluation(store, b).select("sample_id", "verdict", "confidence", "distribution")
    both = first.join(second, on="sample_id", how="inner", suffix="_b")
    if both.height == 0:
        raise StoreError(f"{a} and {b} have no question in common: evaluate both on the same files")
    if left_out := max(first.height, second.height) - both.height:
        tell(f"{left_out} questions that only one of {a} and {b} answered are left out")
    both = _beside(store, both, f"{a} and {b}", initial, tell)
    both = both.with_columns(pl.coalesce("distribution", "distribution_b").alias("distribution"))
    return [row for scope, part in scopes(both).items() for row in _differences(scope, part, seed)]


def read_evaluation(store: GradientStore, name: str) -> pl.DataFrame:
    """One evaluation beside its questions, sorted by id. What an older store did not record is null.

    Raises StoreError with the names there are.
    """
    stored = store.scan("evaluations")
    rows = stored.filter(pl.col("evaluation") == name).collect()
    if rows.height == 0:
        names = stored.select("evaluation").unique().sort("evaluation").collect()["evaluation"]
        raise StoreError(f"no evaluation {name!r} in {store.uri}: there are {', '.join(names) or 'none'}")
    whole = pl.DataFrame(pl.from_arrow(TABLES["evaluations"].schema.empty_table())).schema
    rows = rows.with_columns(pl.lit(None, kind).alias(column) for column, kind in whole.items() if column not in rows)
    columns = ["sample_id", "source", "split", "subject", "exposure", "question", "answer"]
    samples = store.scan("samples").select(columns).collect()
    return rows.join(samples, on="sample_id", how="left").sort("sample_id")


def scopes(frame: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The sets of questions that numbers are given for: all; id and ood; each source and split."""
    found = {"all": frame}
    for scope in (pl.col("distribution"), pl.concat_str("source", "split", separator="/", ignore_nulls=True)):
        of = frame.select(scope.alias("scope"))["scope"]
        found |= {name: frame.filter(of == name) for name in sorted(set(of.drop_nulls()))}
    return found


def disagreements(store: GradientStore, name: str, first: int = 20) -> tuple[int, list[dict[str, Any]]]:
    """On how many questions the two judges differ, and the first of them in order of id."""
    frame = read_evaluation(store, name).filter(pl.col("verdict") != pl.col("verdict_reference"))
    columns = ["sample_id", "question", "answer", "output", "verdict", "verdict_reference"]
    return frame.height, frame.select(columns).head(first).to_dicts()


def _numbers(frame: pl.DataFrame, seed: int, beside: bool = False) -> Iterator[tuple[str, str | None, str, Interval]]:
    """(scope, subject, metric, number) of one evaluation by itself, or ``beside`` the column ``initial``."""
    for scope, part in scopes(frame).items():
        verdicts = part["verdict"].to_list()
        if beside:
            numbers = against(part["initial"].to_list(), verdicts, seed=seed)
        else:
            numbers = {**alone(verdicts, seed=seed), "aurc": _aurc(part, seed)}
        yield from ((scope, None, metric, number) for metric, number in numbers.items())
    topical = frame.filter(pl.col("subject").is_not_null())
    if topical.height == 0:
        return
    initial = topical["initial"].to_list() if beside else None
    found = by_subject(topical["verdict"].to_list(), topical["subject"].to_list(), initial, seed=seed)
    for subject, numbers in found.each.items():
        yield from (("subject", subject, metric, number) for metric, number in numbers.items())
    yield from (("macro", None, metric, number) for metric, number in found.macro.items())


def _differences(scope: str, part: pl.DataFrame, seed: int) -> Iterator[dict[str, Any]]:
    initial, of_a, of_b = (part[c].to_list() for c in ("initial", "verdict", "verdict_b"))

    def own(metric: str, verdicts: list[str]) -> float | None:
        return value_of(metric, joint_counts(*([verdicts] if metric in ALONE else [initial, verdicts])))[0]

    for metric, number in paired(initial, of_a, of_b, seed=seed).items():
        yield _difference_row(scope, metric, own(metric, of_a), own(metric, of_b), number)
    lost = max(_without_confidence(part, ""), _without_confidence(part, "_b"))
    if lost:
        yield _difference_row(scope, "aurc", None, None, _no_confidence(part, lost))
        return
    a, b = _ranked(part, ""), _ranked(part, "_b")
    yield _difference_row(scope, "aurc", a.aurc(), b.aurc(), paired_aurc(a, b, seed=seed))


def _difference_row(scope: str, metric: str, a: float | None, b: float | None, number: Interval) -> dict[str, Any]:
    found = asdict(number)
    return {"scope": scope, "metric": metric, "a": a, "b": b, "difference": found.pop("value"), **found}


def _row(name: str, initial: str | None, scope: str, subject: str | None, metric: str, number: Interval) -> dict:
    return {
        "row_id": row_id(name, initial or "", scope, subject or "", metric),
        "evaluation": name,
        "against": initial,
        "scope": scope,
        "subject": subject,
        "metric": metric,
        **asdict(number),
    }


def _beside(
    store: GradientStore, frame: pl.DataFrame, name: str, initial: str, tell: Callable[[str], None]
) -> pl.DataFrame:
    """The questions that the initial model answered too, with its verdict as the column ``initial``."""
    before = read_evaluation(store, initial).select("sample_id", pl.col("verdict").alias("initial"))
    both = frame.join(before, on="sample_id", how="inner").sort("sample_id")
    if both.height == 0:
        raise StoreError(f"{name} and {initial} have no question in common: evaluate them on the same files")
    if left_out := frame.height - both.height:
        tell(f"{left_out} of {frame.height} questions were not asked of {initial}: they are in no comparison with it")
    return both


def _aurc(part: pl.DataFrame, seed: int) -> Interval:
    if lost := _without_confidence(part):
        return _no_confidence(part, lost)
    return aurc_interval(_ranked(part), seed=seed)


def _ranked(part: pl.DataFrame, suffix: str = "") -> Ranked:
    verdicts = part["verdict" + suffix]
    confidence = part["confidence" + suffix].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return Ranked(confidence, (verdicts == CORRECT).to_numpy(), (verdicts == REFUSED).to_numpy())


def _without_confidence(part: pl.DataFrame, suffix: str = "") -> int:
    """Answers (not refusals) whose confidence was not recorded, or was NaN."""
    return part.filter(pl.col("verdict" + suffix) != REFUSED)["confidence" + suffix].null_count()


def _no_confidence(part: pl.DataFrame, lost: int) -> Interval:
    sentence = f"undefined: {lost} answers have no confidence; evaluate again to record it"
    return Interval(None, None, None, part.height, sentence)
