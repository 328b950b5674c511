"""Quotas: a rule applied within each subject, or each cluster of gradients, and the strata merged in proportion."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from gradstore.kernels.half import add_groups, dot
from gradstore.selection.pool import Pool, Rule

ROUNDS = 25  # of k-means at most


def with_quota(rule: Rule, pool: Pool, count: int) -> pl.DataFrame:
    """Rank by ``rule`` within strata; the next pick goes to the stratum that is furthest behind its share.

    Its share is that of the side (D'Hondt's largest quotient, size/(picked + 1)), so the ranking for k is a prefix
    of that for k+1 whenever the rule's are.
    """
    labels = strata(pool)
    ranked, excluded, sizes = {}, [], {}
    for name in sorted(set(labels)):
        of_stratum = rule.rank(pool.subset(pl.Series([x == name for x in labels])), count)
        if "reason" in of_stratum.columns:
            excluded.append(of_stratum.filter(pl.col("reason").is_not_null()))
            of_stratum = of_stratum.filter(pl.col("reason").is_null()).drop("reason")
        ranked[name], sizes[name] = of_stratum.rows(), labels.count(name)
    merged = pl.DataFrame(_merged(ranked, sizes), schema={"sample_id": pl.String, "score": pl.Float64}, orient="row")
    return pl.concat([merged.with_columns(reason=pl.lit(None, pl.String)), *excluded]) if excluded else merged


def _merged(ranked: Mapping[str, list[tuple]], sizes: Mapping[str, int]) -> list[tuple]:
    taken, merged = dict.fromkeys(ranked, 0), []
    while open_ := [name for name in ranked if taken[name] < len(ranked[name])]:
        name = max(open_, key=lambda n: sizes[n] / (taken[n] + 1))  # the first of equals, by name
        merged.append(ranked[name][taken[name]])
        taken[name] += 1
    return merged


def strata(pool: Pool) -> list[str]:
    """The stratum of each candidate: its subject (none is one of them), or its cluster."""
    if pool.settings.clusters is None:
        return pool.frame["subject"].fill_null("").to_list()
    return [f"{c:06}" for c in clusters(pool.rows(), pool.settings.clusters)]


def clusters(rows: np.ndarray, count: int) -> np.ndarray:
    """Spherical k-means (Dhillon & Modha 2001): cluster (n,) of each unit row (n, dim) uint16.

    Starts from the row farthest from those before it, the first being row 0: rows come in seeded order, so this is
    deterministic in the seed.
    """
    centres = rows[:1].view(np.float16).astype(np.float64)
    nearest = dot(rows, centres)[:, 0]
    while len(centres) < min(count, len(rows)):
        centre = rows[int(nearest.argmin())].view(np.float16).astype(np.float64)
        centres = np.vstack([centres, centre])
        nearest = np.maximum(nearest, dot(rows, centre[None])[:, 0])
    labels = np.zeros(len(rows), np.int64)
    for _ in range(ROUNDS):
        before, labels = labels, dot(rows, centres).argmax(axis=1)
        if (before == labels).all():
            break
        sums = np.zeros_like(centres)
        add_groups(rows, labels, sums)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(norms > 0, sums / np.where(norms > 0, norms, 1), centres)
    return labels
