"""The rules that rank candidates within one side, best first: frame in, (sample_id, score) frame out."""

from collections.abc import Callable

import polars as pl

Rule = Callable[[pl.DataFrame], pl.DataFrame]


def top_correct(candidates: pl.DataFrame) -> pl.DataFrame:
    """Most correct first; ties by certainty, then by seeded hash (GRAIT's D_ik: there ties keep file order)."""
    ranked = candidates.sort("correctness", "certainty", "order", descending=[True, True, False], nulls_last=True)
    return ranked.select("sample_id", score=pl.col("correctness").cast(pl.Float64))


def top_refusal_influence(candidates: pl.DataFrame) -> pl.DataFrame:
    """Largest I_ref first; ties by lower certainty, then by seeded hash (GRAIT's D_idk, "method6" of its code)."""
    ranked = candidates.sort("i_ref", "certainty", "order", descending=[True, False, False], nulls_last=True)
    return ranked.select("sample_id", score=pl.col("i_ref"))


def at_random(candidates: pl.DataFrame) -> pl.DataFrame:
    """In the order of the seeded hash: random, yet independent of row order and of which others are there."""
    return candidates.sort("order").select("sample_id", score=pl.lit(None, pl.Float64))
