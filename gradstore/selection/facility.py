"""Facility location: every candidate of a side has a near one among the chosen.

F(S) = Σ_i max_{j∈S} (1 + <x_i, x_j>)/2 is monotone and submodular (Mirzasoleiman et al. 2020, CRAIG, arXiv
1906.01827, whose weights are the sizes of the neighbourhoods: weight rule ``cluster-size``). Lazy greedy (Minoux
1978): a gain can only fall, so old gains are upper bounds and only the leading ones are computed anew. The first
bounds are exact and linear, F({j}) = n(1 + <mean, x_j>)/2. Columns of the n×n similarities are made BLOCK at a
time, where they are asked for (:mod:`gradstore.selection.gram`).
"""

from __future__ import annotations

import numpy as np
import polars as pl

from gradstore.kernels.greedy import gains
from gradstore.kernels.half import dot
from gradstore.selection.gram import Gram
from gradstore.selection.pool import Pool, Rule, mean_of, products, ranking, widened

BLOCK = 32


def facility_location(pool: Pool, count: int) -> pl.DataFrame:
    """Cover the side's gradients."""
    return ranking(pool, *locate(pool.rows(), count))


def locate(rows: np.ndarray, count: int) -> tuple[list[int], list[float]]:
    """Positions picked and the gain of each, in [0, n]: rows (n, dim) uint16."""
    n, gram = len(rows), Gram(rows)
    bounds = n * (1 + products(rows, mean_of(rows))) / 2 * (1 + 1e-9)  # a bound, whatever the last bits do
    covered = np.zeros(n)
    picked: list[int] = []
    gained: list[float] = []
    for _ in range(min(count, n)):
        best = _leader(gram, bounds, covered)
        picked.append(best)
        gained.append(float(bounds[best]))
        covered = np.maximum(covered, (1 + gram.column(best)) / 2)
        bounds[best] = -np.inf
    return picked, gained


def _leader(gram: Gram, bounds: np.ndarray, covered: np.ndarray) -> int:
    """The open candidate of largest gain, the first of equals; ``bounds`` are tightened on the way."""
    fresh = np.zeros(len(bounds), bool)
    while not fresh[best := int(bounds.argmax())]:
        stale = np.where(fresh, -np.inf, bounds)
        block = np.argsort(-stale, kind="stable")[:BLOCK]
        block = block[np.isfinite(stale[block])]
        bounds[block] = gains((1 + gram.columns(block)) / 2, covered)
        fresh[block] = True
    return best


def nearest(rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """How many rows each chosen one is the nearest of: (k,) int64, summing to n; ties go to the first."""
    counts = np.zeros(len(chosen), np.int64)
    targets = widened(chosen)
    for start in range(0, len(rows), 1024):
        counts += np.bincount(dot(rows[start : start + 1024], targets).argmax(axis=1), minlength=len(chosen))
    return counts


RULES = {"facility": Rule(facility_location, frozenset({"vectors"}))}
