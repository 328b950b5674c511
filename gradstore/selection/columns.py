"""Rules that sort candidates by one number a sample. Ties end in a seeded hash of the id, never in file order."""

from __future__ import annotations

import polars as pl

from gradstore.selection.pool import Pool, Rule

FELL = pl.col("flow") < 0


def at_random(pool: Pool, count: int) -> pl.DataFrame:
    """In the order of the seeded hash: random, yet independent of row order and of which others are there."""
    return pool.frame.sort("order").select("sample_id", score=pl.lit(None, pl.Float64))


def top_correct(pool: Pool, count: int) -> pl.DataFrame:
    """Most correct first; ties by certainty (GRAIT's D_ik: there ties keep file order)."""
    return _sorted(pool.frame, pl.col("correctness"), [("certainty", True)])


def most_certain(pool: Pool, count: int) -> pl.DataFrame:
    """Most certain first; ties by correctness (CRaFT Alg. 1, D_van)."""
    return _sorted(pool.frame, pl.col("certainty"), [("correctness", True)])


def least_certain(pool: Pool, count: int) -> pl.DataFrame:
    """Least certain first; ties by lower correctness (CRaFT Alg. 1, D_idk; "w/o Flow" = CorCer-RAIT)."""
    return _sorted(pool.frame, -pl.col("certainty"), [("correctness", False)])


def least_certain_falling(pool: Pool, count: int) -> pl.DataFrame:
    """Least certain first of those whose correctness fell in rehearsal (CRaFT Alg. 1: Δμ ≥ 0 is dropped)."""
    return _only(least_certain(pool, count), pool, FELL)


def random_falling(pool: Pool, count: int) -> pl.DataFrame:
    """At random of those whose correctness fell in rehearsal (CRaFT "w/o Cer")."""
    return _only(at_random(pool, count), pool, FELL)


def top_refusal_influence(pool: Pool, count: int) -> pl.DataFrame:
    """Largest I_ref first; ties by lower certainty (GRAIT's D_idk, "method6" of its code)."""
    return _sorted(pool.frame, pl.col("i_ref"), [("certainty", False)])


def refusal_minus_over_refusal(pool: Pool, count: int) -> pl.DataFrame:
    """Largest I_ref − λ·I_over first, λ = penalty, by default 1: GRAIT's weight, used to choose."""
    penalty = 1.0 if pool.settings.penalty is None else pool.settings.penalty
    return _sorted(pool.frame, pl.col("i_ref") - penalty * pl.col("i_over"), [("certainty", False)])


def stable_refusal_influence(pool: Pool, count: int) -> pl.DataFrame:
    """Largest mean/std of I_ref over checkpoints and recipes (sketch seeds): what training noise does not turn.

    After G-SNR (arXiv 2601.13697), which divides a gain by its variance over an ensemble. A std of 0 ranks by the
    mean's sign, first or last; one look says nothing of spread, and counts as missing.
    """
    each = pl.col("i_ref_each").list
    spread = each.std()
    still = pl.when(each.len() > 1).then(each.mean().sign() * float("inf"))
    ratio = pl.when(spread > 0).then(each.mean() / spread).otherwise(still)
    return _sorted(pool.frame, ratio, [("i_ref", True)])


def top_target(pool: Pool, count: int) -> pl.DataFrame:
    """Largest influence on the target first: mean within a subtask, max over subtasks (LESS §3.3)."""
    return _sorted(pool.frame, pl.col("target"), [])


def _sorted(frame: pl.DataFrame, score: pl.Expr, ties: list[tuple[str, bool]]) -> pl.DataFrame:
    """By score, largest first; then by ``ties``, (column, largest first); then by hash. Missing numbers come last."""
    scored = frame.with_columns(score=score.cast(pl.Float64).fill_nan(None))
    names, down = zip(("score", True), *ties, ("order", False), strict=True)
    return scored.sort(names, descending=down, nulls_last=True).select("sample_id", "score")


def _only(ranked: pl.DataFrame, pool: Pool, wanted: pl.Expr) -> pl.DataFrame:
    """Keep the ranking, and note of those that are not ``wanted`` that their knowledge did not fall."""
    reason = (
        pl.when(pl.col("flow").is_null()).then(pl.lit("no-flow")).when(~wanted).then(pl.lit("knowledge-did-not-fall"))
    )
    noted = pool.frame.select("sample_id", reason=reason)
    return ranked.join(noted, on="sample_id", how="left", maintain_order="left")


INFLUENCE, FLOW = frozenset({"influence"}), frozenset({"flow"})
RULES = {
    "random": Rule(at_random),
    "top-correct": Rule(top_correct),
    "most-certain": Rule(most_certain),
    "least-certain": Rule(least_certain),
    "least-certain-falling": Rule(least_certain_falling, FLOW),
    "random-falling": Rule(random_falling, FLOW),
    "i-ref": Rule(top_refusal_influence, INFLUENCE),
    "i-ref-minus-i-over": Rule(refusal_minus_over_refusal, INFLUENCE),
    "stable": Rule(stable_refusal_influence, INFLUENCE),
    "target": Rule(top_target, frozenset({"target"})),
}
