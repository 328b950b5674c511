"""Arithmetic on float16 bits. Numba has no float16 on CPUs, so blocks come as uint16 and are widened here.

Both kernels accumulate in float64: a stored vector has 11 bits, and a mean over 10⁵ of them should keep all.
"""

import os

# numba's OpenMP layer next to OpenBLAS was measured 7–100 times slower; its own work queue gets along.
os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic


@intrinsic
def as_float32(typingctx, bits):
    """Widen the bits of a float16 to float32; one vcvtph2ps on x86."""

    def generate(context, builder, signature, args):
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


# Sums may be taken in another order, which fills the lanes of a vector: 8–14 times as fast. NaN and ∞ keep meaning.
REASSOCIATE = {"reassoc", "contract"}


@njit(parallel=True, cache=True, fastmath=REASSOCIATE)
def dot(block, targets):
    """Scores of every row with every target: block (b, dim) uint16, targets (q, dim) float64 → (b, q) float64."""
    rows, dim = block.shape
    count = targets.shape[0]
    scores = np.zeros((rows, count), np.float64)
    for i in prange(rows):
        row = block[i]
        for q in range(count):
            target = targets[q]
            total = 0.0
            for j in range(dim):
                total += np.float64(as_float32(row[j])) * target[j]  # type: ignore[call-arg]
            scores[i, q] = total
    return scores


@njit(parallel=True, cache=True)
def add_groups(block, groups, sums):
    """Add each row to the sum of its group, in place; a row whose group is negative is left out.

    block (b, dim) uint16, groups (b,) int64 in [−1, g), sums (g, dim) float64. Columns are split over threads,
    so every sum adds its rows in order: the result does not depend on the number of threads.
    """
    rows, dim = block.shape
    for j in prange(dim):
        for i in range(rows):
            if groups[i] >= 0:
                sums[groups[i], j] += np.float64(as_float32(block[i, j]))  # type: ignore[call-arg]
