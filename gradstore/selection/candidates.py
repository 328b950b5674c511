"""From probed samples to a selection in which every candidate has a reason."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from gradstore.errors import SelectionError
from gradstore.identity import seeded_order
from gradstore.methods import Method
from gradstore.selection.methods import RULES, method_of
from gradstore.selection.pool import Pool, Vectors
from gradstore.selection.quotas import with_quota
from gradstore.selection.released import DRAWS, KEEP_ALL, KNOWN_FIRST
from gradstore.selection.settings import KNOWN, UNKNOWN, Settings
from gradstore.selection.weights import weights_of
from gradstore.weighting import Weights

NUMBERS = ("entropy", "flow", "i_ref", "i_over", "target")  # columns a frame may lack


@dataclass(frozen=True)
class Selection:
    """``rows``: the candidates with knowledge, side, response, rank, score, reason, weight; each side's weights."""

    rows: pl.DataFrame
    known: Weights
    unknown: Weights
    warnings: list[str]


def split(correctness: pl.Expr, threshold: float, boundary: str) -> pl.Expr:
    """known | unknown | null by correctness, compared with the threshold as float32, as it is stored."""
    correctness, limit = correctness.cast(pl.Float32), float(np.float32(threshold))
    side = pl.when(correctness > limit).then(pl.lit(KNOWN)).when(correctness < limit).then(pl.lit(UNKNOWN))
    at = {KNOWN: pl.lit(KNOWN), UNKNOWN: pl.lit(UNKNOWN), "drop": pl.lit(None, pl.String)}[boundary]
    return side.when(correctness == limit).then(at).otherwise(None)


def select(candidates: pl.DataFrame, settings: Settings, vectors: Vectors | None = None) -> Selection:
    """Choose, rank and weigh.

    ``candidates``: one row a sample with sample_id, correctness, certainty and ``problem`` (null, or why the sample
    cannot be used); and, where the method needs them, entropy, flow, i_ref, i_over, i_ref_each, target, subject,
    ordinal, choice. Every sample that was not selected says why: its problem, ``at-threshold``, a rule's own reason, or
    ``outranked``.
    Raises SelectionError on an empty group.
    """
    method = method_of(settings)
    frame = _sided(_completed(candidates, settings), method, settings)
    usable = frame.filter(pl.col("problem").is_null()).sort("order")
    chosen, excluded, warnings = _choose(usable, method, settings, vectors)
    weighed = weights_of(method, settings, {s: _pool(usable, chosen, s, settings, vectors) for s in chosen})
    picked = pl.concat(
        chosen[side].with_columns(
            weight=pl.Series(weighed[side].weights),
            side=pl.lit(side),
            response=pl.lit("answer" if side == KNOWN or method.says == "answer" else "refusal"),
        )
        for side in (KNOWN, UNKNOWN)
    )
    return Selection(_with_reasons(frame, picked, excluded), weighed[KNOWN], weighed[UNKNOWN], warnings)


def _completed(candidates: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """With the seeded order, and null in the columns that this method does not need."""
    order = [seeded_order(settings.seed, i) for i in candidates["sample_id"]]
    missing = {name: pl.lit(None, pl.Float64) for name in NUMBERS if name not in candidates.columns}
    if "subject" not in candidates.columns:
        missing["subject"] = pl.lit(None, pl.String)
    if "choice" not in candidates.columns:
        missing["choice"] = pl.lit(None, pl.Boolean)
    if "ordinal" not in candidates.columns:
        missing["ordinal"] = pl.int_range(pl.len(), dtype=pl.Int64)
    return candidates.with_columns(pl.Series("order", order, pl.String), **missing)


def _sided(frame: pl.DataFrame, method: Method, settings: Settings) -> pl.DataFrame:
    """The column ``knowledge``: by correctness, or (R-Tuning-U) by entropy, whose lower half is known."""
    if method.split != "entropy":
        side = split(pl.col("correctness"), settings.threshold, method.boundary)
        return frame.with_columns(knowledge=side)
    usable = frame.filter(pl.col("problem").is_null(), pl.col("entropy").is_not_null()).sort("entropy", "order")
    half = usable.with_row_index("place").select(
        "sample_id",
        knowledge=pl.when(pl.col("place") < usable.height / 2).then(pl.lit(KNOWN)).otherwise(pl.lit(UNKNOWN)),
    )
    return frame.join(half, on="sample_id", how="left", maintain_order="left")


Chosen = tuple[dict[str, pl.DataFrame], pl.DataFrame, list[str]]


def _choose(usable: pl.DataFrame, method: Method, settings: Settings, vectors: Vectors | None) -> Chosen:
    """The unknown side first: a rule of the known side may ask which refusals it has to balance.

    A blind method has no sides: the known are chosen from all candidates, then the unknown from those that are left.
    """
    rules = {KNOWN: method.known, UNKNOWN: method.unknown}
    blind = method.split == "blind"
    first = KNOWN if blind or method.unknown in KNOWN_FIRST else UNKNOWN
    chosen: dict[str, pl.DataFrame] = {}
    excluded: list[pl.DataFrame] = [_nobody()]
    warnings: list[str] = []
    for side in (first, UNKNOWN if first == KNOWN else KNOWN):
        count = settings.known if side == KNOWN else settings.unknown
        before = tuple(next(iter(chosen.values()))["sample_id"]) if chosen else ()
        mine = ~pl.col("sample_id").is_in(before) if blind else pl.col("knowledge") == side
        others = () if blind else tuple(usable.filter(~mine & pl.col("knowledge").is_not_null())["sample_id"])
        pool = Pool(usable.filter(mine), side, settings, vectors, others, before)
        _check_not_empty(pool.frame, side, method, settings)
        rule = RULES[rules[side]]
        ranked = with_quota(rule, pool, count) if settings.quota else rule.rank(pool, count)
        if "reason" in ranked.columns:
            out = ranked.filter(pl.col("reason").is_not_null()).select("sample_id", "reason")
            ranked = ranked.filter(pl.col("reason").is_null()).drop("reason")
            excluded.append(out)
            _check_some_left(ranked, out, side, rules[side])
        if rules[side] in KEEP_ALL:
            count = max(count, ranked.height)
        elif rules[side] in DRAWS:
            count = ranked.height
        chosen[side] = _cut(ranked, count, side, settings, warnings)
    return chosen, pl.concat(excluded).unique("sample_id", maintain_order=True), warnings


def _nobody() -> pl.DataFrame:
    return pl.DataFrame(schema={"sample_id": pl.String, "reason": pl.String})


def _pool(
    usable: pl.DataFrame, chosen: dict[str, pl.DataFrame], side: str, settings: Settings, vectors: Vectors | None
) -> tuple[Pool, Pool]:
    """(all of a side, what was chosen of it in order of rank)."""
    whole = Pool(usable.filter(pl.col("knowledge") == side), side, settings, vectors)
    picked = chosen[side].select("sample_id", rank_score="score")
    ranked = picked.join(usable, on="sample_id", how="left", maintain_order="left")
    return whole, Pool(ranked, side, settings, vectors)


def _check_not_empty(ranked: pl.DataFrame, side: str, method: Method, settings: Settings) -> None:
    if ranked.height:
        return
    if method.split == "blind":
        raise SelectionError(
            f"no usable candidate is left for the {side} side: ask for fewer of the other, or probe more samples"
        )
    if method.split == "entropy":
        raise SelectionError(f"no usable candidate on the {side} side: no probe has an entropy; probe more samples")
    raise SelectionError(
        f"no usable candidate on the {side} side at threshold {settings.threshold} "
        f"(boundary {method.boundary}): move --threshold, or probe and extract more samples"
    )


def _check_some_left(ranked: pl.DataFrame, excluded: pl.DataFrame, side: str, rule: str) -> None:
    if ranked.height == 0:
        counted = excluded.group_by("reason").len().sort("reason").iter_rows()
        why = ", ".join(f"{number} {reason}" for reason, number in counted)
        raise SelectionError(f"rule {rule!r} leaves no candidate on the {side} side ({why}): use another rule")


def _cut(ranked: pl.DataFrame, count: int, side: str, settings: Settings, warnings: list[str]) -> pl.DataFrame:
    """The first ``count``; fewer candidates are all taken, with a warning, or refused if ``strict``."""
    if ranked.height < count:
        message = f"{count} {side} samples were asked for, {ranked.height} are usable"
        if settings.strict or ranked.height == 0:
            advice = ", or leave out --strict to take them all" if ranked.height else " of either side"
            raise SelectionError(f"{message}: ask for fewer{advice}")
        warnings.append(f"{message}: all are taken")
    return ranked.head(count).with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32))


def _with_reasons(frame: pl.DataFrame, chosen: pl.DataFrame, excluded: pl.DataFrame) -> pl.DataFrame:
    noted = excluded.rename({"reason": "own"})
    joined = frame.drop("order").join(chosen, on="sample_id", how="left").join(noted, on="sample_id", how="left")
    reason = (
        pl.when(pl.col("rank").is_not_null())
        .then(pl.lit("selected"))
        .when(pl.col("problem").is_not_null())
        .then(pl.col("problem"))
        .when(pl.col("knowledge").is_null())
        .then(pl.lit("at-threshold"))
        .otherwise(pl.coalesce("own", pl.lit("outranked")))
    )
    return joined.with_columns(reason=reason).drop("problem", "own").sort("sample_id")
