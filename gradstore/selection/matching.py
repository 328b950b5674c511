"""Gradient matching: few weighted samples whose sum is the update of the whole side.

GradMatch (Killamsetty et al. 2021, arXiv 2103.00123): orthogonal matching pursuit for min_w ‖Σ_i w_i x_i − μ‖² +
r‖w‖², w ≥ 0, one pick at a time by the residual, all weights fitted anew. Theirs is per class too; here a class is a
side, so both sides together match the update of the full data.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from gradstore.selection.pool import Pool, Rule, mean_of, products, ranking, widened

RIDGE = 1e-3  # r; keeps the weights of near-copies apart from exploding
STEPS = 20  # sweeps of coordinate descent a pick, started from the last weights


def matching_pursuit(pool: Pool, count: int) -> pl.DataFrame:
    """Match the side's mean gradient."""
    rows = pool.rows()
    return ranking(pool, *pursue(rows, mean_of(rows), count))


def pursue(rows: np.ndarray, target: np.ndarray, count: int) -> tuple[list[int], list[float]]:
    """Positions picked and the residual's product with each: rows (n, dim) uint16, target (dim,) float64."""
    toward = products(rows, target)
    k = min(count, len(rows))
    gram, chosen = np.zeros((k, k)), np.zeros((k, rows.shape[1]))
    open_, weights, residual = np.ones(len(rows), bool), np.zeros(0), target
    picked: list[int] = []
    scores: list[float] = []
    for t in range(k):
        # Equal rows score equal, so that ties go by hash: BLAS, on an n×t matrix, rounds them by their place.
        score = np.where(open_, products(rows, residual), -np.inf)
        best = int(score.argmax())
        picked.append(best)
        scores.append(float(score[best]))
        open_[best] = False
        chosen[t] = widened(rows[best])
        gram[: t + 1, t] = gram[t, : t + 1] = products(rows[picked], chosen[t])
        weights = nonnegative(gram[: t + 1, : t + 1], toward[picked], np.append(weights, 0.0), STEPS)
        residual = target - weights @ chosen[: t + 1]
    return picked, scores


def nonnegative(gram: np.ndarray, toward: np.ndarray, start: np.ndarray, steps: int) -> np.ndarray:
    """min ½wᵀ(G + rI)w − bᵀw, w ≥ 0, by coordinate descent from ``start``: (k,)."""
    weights = start.copy()
    residual = toward - gram @ weights - RIDGE * weights
    for _ in range(steps):
        for i in np.flatnonzero((weights > 0) | (residual > 1e-12)):
            change = max(residual[i] / (gram[i, i] + RIDGE), -weights[i])
            if change:
                weights[i] += change
                residual -= gram[:, i] * change
                residual[i] -= RIDGE * change
    return weights


RULES = {"matching": Rule(matching_pursuit, frozenset({"vectors"}))}
