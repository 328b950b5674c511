"""Gradient → feature → CountSketch in one pass over a block, on the CPU: nothing of the block's size is written.

A row's coordinates are taken tile by tile, in the same order whatever the block size or the number of threads, so the
sums are the same bits. The loops are apart, over slices from 0, because only then are they vectorised.
``models.projection`` holds the slower torch twin.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from gradstore.kernels.formulas import DELTA, PLAIN, SIGN
from gradstore.kernels.threads import ONE_CALLER, WORTH_WAKING

TILE = 256  # coordinates whose features stay in the nearest cache between the arithmetic and the scatter
ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
BIT = np.uint32(1)


@njit(nogil=True, error_model="numpy", cache=True)
def _sign(g, out):
    for i in range(g.size):
        out[i] = ONE if g[i] > ZERO else (-ONE if g[i] < ZERO else g[i])  # NaN stays NaN


@njit(nogil=True, error_model="numpy", cache=True)
def _rooted(g, a, v, k1, k2, e, out):
    for i in range(g.size):
        down = np.sqrt(v[i] + k2 * g[i] * g[i]) + e
        out[i] = (a[i] + k1 * g[i]) / down if down != ZERO else ZERO


@njit(nogil=True, error_model="numpy", cache=True)
def _rooted_from_zero(g, v, k1, k2, e, out):
    for i in range(g.size):
        down = np.sqrt(v[i] + k2 * g[i] * g[i]) + e
        out[i] = k1 * g[i] / down if down != ZERO else ZERO


@njit(nogil=True, error_model="numpy", cache=True)
def _delta(g, a, v, k1, k2, e, out):
    for i in range(g.size):
        square = k2 * g[i] * g[i]
        root = np.sqrt(v[i] + square)
        both = root + np.sqrt(v[i])
        grown = square / both if both > ZERO else ZERO
        down = root + e
        out[i] = (k1 * g[i] - a[i] * grown) / down if down != ZERO else ZERO


@njit(nogil=True, error_model="numpy", cache=True)
def _signed(values, codes, scale, out):
    for i in range(values.size):
        out[i] = values[i] * scale * (ONE - TWO * np.float32(np.int32(codes[i] & BIT)))


@njit(nogil=True, error_model="numpy", cache=True)
def _scatter(values, codes, sketch):
    for i in range(values.size):
        sketch[codes[i] >> BIT] += values[i]


@njit(nogil=True, error_model="numpy", cache=True)
def _add_row(sketch, gradient, codes, kind, a, v, k1, k2, e, scale):
    features, signed = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    for start in range(0, gradient.size, TILE):
        stop = min(start + TILE, gradient.size)
        g, f, part = gradient[start:stop], features[: stop - start], signed[: stop - start]
        if kind == PLAIN:
            f[:] = g
        elif kind == SIGN:
            _sign(g, f)
        elif kind == DELTA:
            _delta(g, a[start:stop], v[start:stop], k1, k2, e, f)
        elif a.size:
            _rooted(g, a[start:stop], v[start:stop], k1, k2, e, f)
        else:
            _rooted_from_zero(g, v[start:stop], k1, k2, e, f)
        for k in range(codes.shape[0]):
            _signed(f, codes[k, start:stop], scale, part)
            _scatter(part, codes[k, start:stop], sketch)


@njit(nogil=True, error_model="numpy", cache=True)
def _add_rows(out, gradients, codes, kind, a, v, k1, k2, e, scale):
    for row in range(len(out)):
        _add_row(out[row], gradients[row], codes, kind, a, v, k1, k2, e, scale)


@njit(parallel=True, nogil=True, error_model="numpy", cache=True)
def _add_rows_in_parallel(out, gradients, codes, kind, a, v, k1, k2, e, scale):
    for row in prange(len(out)):
        _add_row(out[row], gradients[row], codes, kind, a, v, k1, k2, e, scale)


def add_features(out, gradients, codes, kind, a, v, k1, k2, e, scale):
    """Add the sketched features of one parameter to ``out``, in place.

    out (rows, dim) float32; gradients (rows, size) float32; codes (s, size) uint32, bucket·2 + (1 if the sign is
    negative); a, v (size,) float32 or empty, k1, k2, e float32: the formula's constants; scale float32, 1/√s.
    """
    if gradients.size < WORTH_WAKING:
        _add_rows(out, gradients, codes, kind, a, v, k1, k2, e, scale)
        return
    with ONE_CALLER:
        _add_rows_in_parallel(out, gradients, codes, kind, a, v, k1, k2, e, scale)
