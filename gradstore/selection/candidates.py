"""From probed samples to a selection in which every candidate has a reason."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from gradstore.errors import SelectionError
from gradstore.identity import seeded_order
from gradstore.selection.methods import METHODS
from gradstore.weighting import Weights, weigh

KNOWN, UNKNOWN = "known", "unknown"
BOUNDARIES = (KNOWN, UNKNOWN, "drop")


@dataclass(frozen=True)
class Settings:
    """How to select. ``known`` and ``unknown`` are counts ≥ 1; correctness equal to ``threshold`` belongs to the
    ``boundary`` side, or to none (``drop``, as the released GRAIT code); ``seed`` breaks ties and draws."""

    method: str = "grait"
    known: int = 4000
    unknown: int = 1000
    threshold: float = 0.5
    boundary: str = KNOWN
    seed: int = 0
    weights: str | None = None
    temperature: float | None = None
    ess: float | None = None
    weight_total: float | None = None
    cap: float | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SelectionError(f"no method {self.method!r}: there are {', '.join(METHODS)}")
        if self.boundary not in BOUNDARIES:
            raise SelectionError(f"boundary {self.boundary!r}: expected {', '.join(BOUNDARIES)}")
        if self.known < 1 or self.unknown < 1:
            raise SelectionError(f"{self.known} known and {self.unknown} unknown samples: expected at least 1 of each")
        if not 0 <= self.threshold <= 1:
            raise SelectionError(f"threshold {self.threshold}: correctness is between 0 and 1")


def split(correctness: pl.Expr, threshold: float, boundary: str) -> pl.Expr:
    """known | unknown | null by correctness, compared with the threshold as float32, as it is stored."""
    correctness, limit = correctness.cast(pl.Float32), float(np.float32(threshold))
    side = pl.when(correctness > limit).then(pl.lit(KNOWN)).when(correctness < limit).then(pl.lit(UNKNOWN))
    at = {KNOWN: pl.lit(KNOWN), UNKNOWN: pl.lit(UNKNOWN), "drop": pl.lit(None, pl.String)}[boundary]
    return side.when(correctness == limit).then(at).otherwise(None)


def select(candidates: pl.DataFrame, settings: Settings) -> tuple[pl.DataFrame, Weights, list[str]]:
    """Choose, rank and weigh.

    ``candidates``: one row a sample with sample_id, correctness, certainty, i_ref, i_over (null: no usable
    gradient) and ``problem`` (null, or why the sample cannot be used). Returns the same samples with knowledge,
    response, rank, score, reason, weight; the weights of the unknown side; warnings. Every sample that was not
    selected says why: its problem, ``at-threshold``, or ``outranked``. Raises SelectionError on an empty group.
    """
    method = METHODS[settings.method]
    order = [seeded_order(settings.seed, i) for i in candidates["sample_id"]]
    frame = candidates.with_columns(
        pl.Series("order", order, pl.String),
        split(pl.col("correctness"), settings.threshold, settings.boundary).alias("knowledge"),
    )
    usable = frame.filter(pl.col("problem").is_null())
    warnings: list[str] = []
    if method.blind:
        ranked = method.known(usable)
        _check_not_empty(ranked, "either", settings)
        known = _cut(ranked, settings.known, KNOWN, settings, warnings)
        rest = ranked.slice(known.height)
        unknown = _cut(rest, settings.unknown, UNKNOWN, settings, warnings)
    else:
        known = _side(usable, KNOWN, settings, warnings)
        unknown = _side(usable, UNKNOWN, settings, warnings)
    chosen = _weighted(known, unknown, frame, settings, method.weights)
    return _with_reasons(frame, chosen[0]), chosen[1], warnings


def _side(usable: pl.DataFrame, side: str, settings: Settings, warnings: list[str]) -> pl.DataFrame:
    method = METHODS[settings.method]
    rule = method.known if side == KNOWN else method.unknown
    ranked = rule(usable.filter(pl.col("knowledge") == side))
    _check_not_empty(ranked, side, settings)
    return _cut(ranked, settings.known if side == KNOWN else settings.unknown, side, settings, warnings)


def _check_not_empty(ranked: pl.DataFrame, side: str, settings: Settings) -> None:
    if ranked.height == 0:
        raise SelectionError(
            f"no usable candidate on the {side} side at threshold {settings.threshold} "
            f"(boundary {settings.boundary}): move --threshold, or probe and extract more samples"
        )


def _cut(ranked: pl.DataFrame, count: int, side: str, settings: Settings, warnings: list[str]) -> pl.DataFrame:
    """The first ``count``; fewer candidates are all taken, with a warning, or refused if ``strict``."""
    if ranked.height < count:
        message = f"{count} {side} samples were asked for, {ranked.height} are usable"
        if settings.strict or ranked.height == 0:
            raise SelectionError(f"{message}: ask for fewer of either side, or leave out --strict to take them all")
        warnings.append(f"{message}: all are taken")
    rank = pl.int_range(1, pl.len() + 1, dtype=pl.Int32)
    return ranked.head(count).with_columns(rank=rank, side=pl.lit(side))


def _weighted(
    known: pl.DataFrame, unknown: pl.DataFrame, frame: pl.DataFrame, settings: Settings, default: str
) -> tuple[pl.DataFrame, Weights]:
    scored = unknown.join(
        frame.select("sample_id", "i_ref", "i_over"), on="sample_id", how="left", maintain_order="left"
    )
    rule = settings.weights or default
    if rule != "uniform" and scored["i_ref"].null_count():
        raise SelectionError(f"weights {rule!r} need influences, which {settings.method} did not compute: use uniform")
    none = np.zeros(scored.height)
    weights = weigh(
        none if rule == "uniform" else scored["i_ref"].to_numpy(),
        none if rule == "uniform" else scored["i_over"].to_numpy(),
        rule,
        temperature=settings.temperature,
        ess=settings.ess,
        total=settings.weight_total,
        cap=settings.cap,
    )
    chosen = pl.concat(
        [
            known.with_columns(weight=pl.lit(1.0), response=pl.lit("answer")),
            unknown.with_columns(weight=pl.Series(weights.weights), response=pl.lit("refusal")),
        ]
    )
    return chosen, weights


def _with_reasons(frame: pl.DataFrame, chosen: pl.DataFrame) -> pl.DataFrame:
    joined = frame.drop("order").join(chosen, on="sample_id", how="left")
    reason = (
        pl.when(pl.col("rank").is_not_null())
        .then(pl.lit("selected"))
        .when(pl.col("problem").is_not_null())
        .then(pl.col("problem"))
        .when(pl.col("knowledge").is_null())
        .then(pl.lit("at-threshold"))
        .otherwise(pl.lit("outranked"))
    )
    return joined.with_columns(reason=reason).drop("problem", "side").sort("sample_id")
