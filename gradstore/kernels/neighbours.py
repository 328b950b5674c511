"""The k nearest of every row among a set: block Gram by BLAS, the best merged, memory bounded whatever n is.

Two tiles of rows are widened to float32 and multiplied, which is all the arithmetic there is; so the speed is that of
matrix multiplication. BLAS rounds a product by its place in the matrix, so a few more than k are kept, their scores are
computed anew by ``dot``, and those decide: equal rows score equal and go by position, as everywhere.
"""

from __future__ import annotations

import numpy as np

from gradstore.errors import SchemaError
from gradstore.kernels.half import dot
from gradstore.kernels.topk import NONE, TopK
from gradstore.kernels.widening import widen

TILE_BYTES = 64 << 20  # of float32, for each of the two tiles
ROWS = 2048  # at most: then the products of two tiles take 16 MB
SPARE = 8  # kept beyond k, for scores that BLAS rounded the other way


def neighbours(
    rows: np.ndarray, among: np.ndarray, k: int, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` of ``among`` (m, dim) with the largest product with each of ``rows`` (n, dim), both uint16.

    → scores (n, k) float64, best first, and positions in ``among`` (n, k) int64; NaN and −1 where there are fewer.
    ``own`` (n,) int64 says where in ``among`` a row itself stands (−1: nowhere), and leaves it out. Either array may be
    a memory map. Beside them it takes 2·64 MB and n·(k + 8)·16 bytes. Rows within 1e-6 of the k-th best, when they are
    more than the spare ones, may stand for one another. Raises SchemaError where the dimensions differ.
    """
    if rows.ndim != 2 or among.ndim != 2 or rows.shape[1] != among.shape[1]:
        raise SchemaError(f"rows {list(rows.shape)} among {list(among.shape)}: take both from one recipe")
    own = np.full(len(rows), NONE) if own is None else own
    tile = max(1, min(ROWS, TILE_BYTES // (4 * max(1, rows.shape[1]))))
    values, places = np.full((len(rows), k), np.nan), np.full((len(rows), k), NONE, np.int64)
    mine, theirs = (np.empty((min(tile, len(a)), a.shape[1]), np.float32) for a in (rows, among))
    for first in range(0, len(rows), tile):
        part = slice(first, min(first + tile, len(rows)))
        best, wide = TopK(part.stop - first, k + SPARE if k else 0), widen(rows[part], mine)
        for start in range(0, len(among), tile):
            others = widen(among[start : start + tile], theirs)
            best.add(wide @ others.T, np.arange(start, start + len(others)), own[part])
        for i, found in zip(range(first, part.stop), best.places, strict=True):
            values[i], places[i] = _decided(rows[i], among, found[found != NONE], k)
    return values, places


def _decided(row: np.ndarray, among: np.ndarray, found: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best k of the positions ``found``, by scores that do not depend on where a row stands."""
    best = TopK(1, k)
    best.add(dot(among[found], row.view(np.float16).astype(np.float64)[None]).T, found)
    return best.values[0], best.places[0]
