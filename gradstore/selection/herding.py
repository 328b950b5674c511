"""Greedy mean matching: samples whose mean gradient is that of their whole side, so that all of it is covered.

Herding (Welling 2009; Chen, Welling & Smola 2010, arXiv 1203.3472): w₀ = μ, pick x_t = argmax <w, x>, then
w ← w + μ − x_t. Here rows have unit norm and are not picked twice. A pick costs O(n·dim) through the running sum of
products with what is chosen; no n×n matrix is made.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from gradstore.errors import SelectionError
from gradstore.kernels.greedy import herding_step
from gradstore.selection.gram import Gram
from gradstore.selection.pool import Pool, Rule, mean_of, products, ranking


def herding(pool: Pool, count: int) -> pl.DataFrame:
    """Match the mean of the side; with penalty λ, the mean less λ times that of the other side's same response."""
    rows = pool.rows()
    target = mean_of(rows)
    if pool.settings.penalty and pool.others:
        target = target - pool.settings.penalty * mean_of(pool.rows(ids=pool.others))
    return ranking(pool, *herd(rows, target, count))


def herd(rows: np.ndarray, target: np.ndarray, count: int) -> tuple[list[int], list[float]]:
    """Positions picked, and <w, x> at each pick divided by its number: rows (n, dim) uint16, target (dim,).

    A column of products is one reading of all rows. Two are made in the time of one: the runner-up's comes along, and
    it is often the next pick.
    """
    toward, among, gram = products(rows, target), np.zeros(len(rows)), Gram(rows)
    is_open = np.ones(len(rows), bool)
    picked, scores = [], []
    for step in range(1, min(count, len(rows)) + 1):
        best, second, score = herding_step(toward, among, is_open, float(step))  # the first of equals, so by hash
        if best < 0:
            raise SelectionError("herding found no score that is a number: the gradients hold NaN or infinity")
        picked.append(best)
        scores.append(score / step)
        is_open[best] = False
        among += gram.column(best, second)
    return picked, scores


RULES = {"herding": Rule(herding, frozenset({"vectors"}))}
