"""Hard knowns: what the chosen refusals would teach the model to refuse, kept as a counterweight."""

from __future__ import annotations

import polars as pl

from gradstore.errors import SelectionError
from gradstore.selection.pool import Pool, Rule, mean_of, products


def hard_known(pool: Pool, count: int) -> pl.DataFrame:
    """The candidates whose refusal gradient has the largest mean product with those of the chosen unknowns.

    A step on the chosen raises log p(refusal | q) by that product (first order), so these are over-refused first.
    Like hard negative mining (Shrivastava et al. 2016, arXiv 1604.03540), by gradient instead of by loss.
    """
    if not pool.chosen:
        raise SelectionError("rule 'hard' goes by the chosen unknowns: it is a rule for the known side")
    scores = products(pool.rows("refusal"), mean_of(pool.rows("refusal", ids=pool.chosen)))
    scored = pool.frame.with_columns(score=pl.Series(scores))
    return scored.sort("score", "order", descending=[True, False]).select("sample_id", "score")


RULES = {"hard": Rule(hard_known, frozenset({"vectors"}))}
