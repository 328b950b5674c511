"""Greedy mean matching: samples whose mean gradient is that of their whole side, so that all of it is covered.

Herding (Welling 2009; Chen, Welling & Smola 2010, arXiv 1203.3472): w₀ = μ, pick x_t = argmax <w, x>, then
w ← w + μ − x_t. Here rows have unit norm and are not picked twice. A pick costs O(n·dim) through the running sum of
products with what is chosen; no n×n matrix is made.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from gradstore.selection.pool import Pool, Rule, mean_of, products, ranking, widened


def herding(pool: Pool, count: int) -> pl.DataFrame:
    """Match the mean of the side; with penalty λ, the mean less λ times that of the other side's same response."""
    rows = pool.rows()
    target = mean_of(rows)
    if pool.settings.penalty and pool.others:
        target = target - pool.settings.penalty * mean_of(pool.rows(ids=pool.others))
    return ranking(pool, *herd(rows, target, count))


def herd(rows: np.ndarray, target: np.ndarray, count: int) -> tuple[list[int], list[float]]:
    """Positions picked, and <w, x> at each pick divided by its number: rows (n, dim) uint16, target (dim,)."""
    toward, among = products(rows, target), np.zeros(len(rows))
    open_ = np.ones(len(rows), bool)
    picked, scores = [], []
    for t in range(1, min(count, len(rows)) + 1):
        score = np.where(open_, t * toward - among, -np.inf)
        best = int(score.argmax())  # the first of equals: rows come in the order of their hash
        picked.append(best)
        scores.append(float(score[best]) / t)
        open_[best] = False
        among += products(rows, widened(rows[best]))
    return picked, scores


RULES = {"herding": Rule(herding, frozenset({"vectors"}))}
