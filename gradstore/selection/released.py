"""What the released codes do, where that is not what their papers say. For comparison; not what one would want.

Read in opendatalab/GRAIT @2be8d64, opendatalab/CRaFT @c05c50e, shizhediao/R-Tuning @27e0384. Random draws are ours
(numpy, seeded by the selection), since theirs are pandas' and mostly unseeded; everything else follows their steps.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from gradstore.selection.pool import Pool, Rule, mean_of, products, ranking, widened
from gradstore.selection.settings import KNOWN


def first_most_correct(pool: Pool, count: int) -> pl.DataFrame:
    """construct_grait_data.py: a stable sort by correctness, so ties keep the order of the file."""
    ranked = pool.frame.sort("correctness", "ordinal", descending=[True, False])
    return ranked.select("sample_id", score=pl.col("correctness").cast(pl.Float64))


def leftovers(pool: Pool, count: int) -> pl.DataFrame:
    """construct_grait_data.py to its end: the lowest scores that its greedy loop left.

    "method6" (top I_ref) is overwritten by a greedy loop over s_j = Σ_v <u_j, v_v> (v: answer gradients of the known
    table, chosen before), s_j += <u_j, u_picked> after each pick; and that by ``sorted(...)[:n]`` over what was not
    picked, ascending. The known table is made first, from all with the largest correctness.
    """
    rows = pool.rows()
    table = pool.rows("answer", ids=pool.chosen)
    score = products(rows, mean_of(table) * len(table))
    open_ = np.ones(len(rows), bool)
    for _ in range(min(count, len(rows))):
        best = int(np.where(open_, score, -np.inf).argmax())
        open_[best] = False
        score += products(rows, widened(rows[best]))
    left = np.flatnonzero(open_)
    order = left[np.argsort(score[left], kind="stable")]
    return ranking(pool, order.tolist(), score[order].tolist())


def with_replacement(pool: Pool, count: int) -> pl.DataFrame:
    """mmlu_RAI.py, Cor-RAIT: ``count`` draws with replacement. A sample drawn twice has score (and weight) 2."""
    generator = np.random.default_rng([pool.settings.seed, int(pool.side == KNOWN)])
    draws = generator.integers(pool.frame.height, size=count)
    times = np.bincount(draws, minlength=pool.frame.height)
    order = list(dict.fromkeys(draws.tolist()))
    return ranking(pool, order, times[order].tolist())


def most_certain_all(pool: Pool, count: int) -> pl.DataFrame:
    """nlargest(keep="all"): everything tied with the last place comes too, so more than ``count`` may be chosen."""
    return _keep_all(pool.frame.with_columns(score=pl.col("certainty").cast(pl.Float64)), count, descending=True)


def least_certain_all(pool: Pool, count: int) -> pl.DataFrame:
    """nsmallest(keep="all"), likewise."""
    return _keep_all(pool.frame.with_columns(score=pl.col("certainty").cast(pl.Float64)), count, descending=False)


def released_falling(pool: Pool, count: int) -> pl.DataFrame:
    """CRaFT's flow filter: multiple choice keeps Δμ = 0 (the paper drops it). For open questions the column ``flow``
    already holds what the released code compares: see :func:`shifted_flow`."""
    fell = pl.col("flow") < 0
    kept = fell | (pl.col("choice").fill_null(False) & (pl.col("flow") == 0))
    ranked = least_certain_all(Pool(pool.frame.filter(kept), pool.side, pool.settings), count)
    reason = pl.when(pl.col("flow").is_null()).then(pl.lit("no-flow")).otherwise(pl.lit("knowledge-did-not-fall"))
    rest = pool.frame.filter(~kept.fill_null(False)).select(
        "sample_id", pl.lit(None, pl.Float64).alias("score"), reason=reason
    )
    return pl.concat([ranked.with_columns(reason=pl.lit(None, pl.String)), rest])


def last(pool: Pool, count: int) -> pl.DataFrame:
    """R-Tuning-U on ParaRel: ``uncertain_data = []`` inside the loop, so only the last item of the file survives."""
    return pool.frame.sort("ordinal").tail(1).select("sample_id", score=pl.lit(None, pl.Float64))


def shifted_flow(initial: np.ndarray, rehearsed: np.ndarray, copies: int = 10) -> np.ndarray:
    """triviaqa_RAI.py: question i is given the rehearsed correctness of question floor(i/10); both (n,), in file order.

    A frame of 10 rows a question is aligned by position with one of one row a question.
    """
    return rehearsed[np.arange(len(initial)) // copies] - initial


def normalised_one_after_another(probabilities: np.ndarray) -> np.ndarray:
    """mmlu_RAI.py: each option is divided by a sum that holds those already divided: (k,) raw → (k,).

    Later options come out smaller than earlier ones wherever the raw probabilities sum to less than 1.
    """
    p = np.asarray(probabilities, np.float64).copy()
    for i in range(len(p)):
        p[i] = p[i] / p.sum()
    return p


def _keep_all(scored: pl.DataFrame, count: int, descending: bool) -> pl.DataFrame:
    ranked = scored.sort("score", "ordinal", descending=[descending, False], nulls_last=True)
    if ranked.height > count:
        edge = ranked["score"][count - 1]
        if edge is not None:  # else the last place is a missing number, and all of those tie
            ranked = ranked.filter(pl.col("score") >= edge if descending else pl.col("score") <= edge)
    return ranked.select("sample_id", "score")


VECTORS, FLOW = frozenset({"vectors"}), frozenset({"flow"})
RULES = {
    "first-most-correct": Rule(first_most_correct),
    "leftovers": Rule(leftovers, VECTORS),
    "with-replacement": Rule(with_replacement),
    "most-certain-all": Rule(most_certain_all),
    "least-certain-all": Rule(least_certain_all),
    "released-falling": Rule(released_falling, FLOW),
    "last": Rule(last),
}
KEEP_ALL = {"most-certain-all", "least-certain-all", "released-falling"}
DRAWS = {"with-replacement"}  # its number is that of draws, fewer are samples
KNOWN_FIRST = {"leftovers"}  # scored by the known table
