"""Cosines of rows with targets, product and norm in one pass over the rows."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from gradstore.kernels.half import TILE, add_products, even, paired
from gradstore.kernels.threads import ONE_CALLER, REASSOCIATE, WORTH_WAKING
from gradstore.kernels.widening import as_float32


@njit(cache=True, nogil=True, fastmath=REASSOCIATE)
def _squares_of_tile(a, b, c, d):
    sa = sb = sc = sd = 0.0
    for j in range(a.size):
        x, y = np.float64(as_float32(a[j])), np.float64(as_float32(b[j]))
        z, w = np.float64(as_float32(c[j])), np.float64(as_float32(d[j]))
        sa += x * x
        sb += y * y
        sc += z * z
        sd += w * w
    return sa, sb, sc, sd


@njit(cache=True, nogil=True)
def _four(block, i, targets, scores, squares):
    last = len(block) - 1
    for start in range(0, block.shape[1], TILE):
        end = min(start + TILE, block.shape[1])
        a, b = block[i, start:end], block[min(i + 1, last), start:end]
        c, d = block[min(i + 2, last), start:end], block[min(i + 3, last), start:end]
        na, nb, nc, nd = _squares_of_tile(a, b, c, d)  # these read memory; what follows reads the nearest cache
        squares[i] += na
        squares[i + 1] += nb
        squares[i + 2] += nc
        squares[i + 3] += nd
        for q in range(0, len(targets), 2):
            add_products(block, i, start, end, targets, q, scores)


@njit(cache=True, nogil=True)
def _cosines(block, targets, scores, squares):
    for i in range(0, len(scores), 4):
        _four(block, i, targets, scores, squares)


@njit(parallel=True, cache=True, nogil=True)
def _cosines_in_parallel(block, targets, scores, squares):
    for four in prange(len(scores) // 4):
        _four(block, 4 * four, targets, scores, squares)


def cosines(block: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """<x, t> / (‖x‖‖t‖), −1 to 1: block (b, dim) uint16, targets (q, dim) float64 → (b, q) float64.

    A zero vector has no direction: its cosines are 0. NaN stays NaN, and so does ∞/∞. Raises SchemaError where the
    dimensions differ.
    """
    block, targets = paired(block, targets)
    rows, count = len(block), len(targets)
    scores, squares = np.zeros((-(-rows // 4) * 4, count + count % 2)), np.zeros(-(-rows // 4) * 4)
    if block.size * (count + 1) // 2 < WORTH_WAKING:
        _cosines(block, even(targets), scores, squares)
    else:
        with ONE_CALLER:
            _cosines_in_parallel(block, even(targets), scores, squares)
    with np.errstate(invalid="ignore"):  # ∞·0 and ∞/∞
        norms = np.sqrt(squares[:rows, None]) * np.sqrt((targets * targets).sum(axis=1))
        return np.divide(scores[:rows, :count], norms, out=np.zeros((rows, count)), where=norms != 0)
