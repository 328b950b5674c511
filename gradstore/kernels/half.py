"""Products and sums over float16 bits at the speed of memory.

Both accumulate in float64. For ``dot`` that costs no time where one or two targets are read per pass, since memory is
slower still, and every score is right to ~1e-15·Σ|x·t|. For ``add_groups`` it makes sums *exact*: a float16 is a
multiple of 2⁻²⁴, so a float64 holds any sum of them while Σ|x| < 2²⁹. No compensation is needed, and any order of
rows, any blocks and any number of threads give the same bits. (Sums that leave that range are rounded like others.)
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, njit, prange

from gradstore.errors import SchemaError
from gradstore.kernels.threads import ONE_CALLER, REASSOCIATE, WORTH_WAKING
from gradstore.kernels.widening import as_float32

TILE = 2048  # columns: 4 kB of a row, so four rows and two targets stay in the nearest cache
CHUNK = 16  # rows that share a tile of targets before the next is read
NARROWEST = 512  # columns a thread takes of a sum


@njit(cache=True, nogil=True, fastmath=REASSOCIATE)
def products_of_tile(a, b, c, d, s, t):
    """Σ row·target of a stretch of four rows with two targets, all read once; eight float64."""
    sa = sb = sc = sd = ta = tb = tc = td = 0.0
    for j in range(s.size):
        x, y = np.float64(as_float32(a[j])), np.float64(as_float32(b[j]))
        z, w = np.float64(as_float32(c[j])), np.float64(as_float32(d[j]))
        m, n = s[j], t[j]
        sa += x * m
        sb += y * m
        sc += z * m
        sd += w * m
        ta += x * n
        tb += y * n
        tc += z * n
        td += w * n
    return sa, sb, sc, sd, ta, tb, tc, td


@njit(cache=True, nogil=True)
def add_products(block, i, start, end, targets, q, scores):
    """Scores of rows i … i + 3 with targets q and q + 1 grow by the products of one stretch of columns.

    Past the end of the block the last row is read again, for scores that are cut off.
    """
    last = len(block) - 1
    a, b = block[i, start:end], block[min(i + 1, last), start:end]
    c, d = block[min(i + 2, last), start:end], block[min(i + 3, last), start:end]
    sa, sb, sc, sd, ta, tb, tc, td = products_of_tile(a, b, c, d, targets[q, start:end], targets[q + 1, start:end])
    scores[i, q] += sa
    scores[i + 1, q] += sb
    scores[i + 2, q] += sc
    scores[i + 3, q] += sd
    scores[i, q + 1] += ta
    scores[i + 1, q + 1] += tb
    scores[i + 2, q + 1] += tc
    scores[i + 3, q + 1] += td


@njit(cache=True, nogil=True)
def _dot_chunk(block, first, targets, scores):
    """Rows first … first + CHUNK − 1. A row goes through the same instructions wherever it stands: the same bits."""
    stop = min(first + CHUNK, len(scores))
    for start in range(0, block.shape[1], TILE):
        end = min(start + TILE, block.shape[1])
        for q in range(0, len(targets), 2):
            for i in range(first, stop, 4):
                add_products(block, i, start, end, targets, q, scores)


@njit(cache=True, nogil=True)
def _dot(block, targets, scores):
    for first in range(0, len(scores), CHUNK):
        _dot_chunk(block, first, targets, scores)


@njit(parallel=True, cache=True, nogil=True)
def _dot_in_parallel(block, targets, scores):
    for chunk in prange((len(scores) + CHUNK - 1) // CHUNK):
        _dot_chunk(block, chunk * CHUNK, targets, scores)


def dot(block: np.ndarray, targets: np.ndarray, *, alone: bool = False) -> np.ndarray:
    """Scores of every row with every target: block (b, dim) uint16, targets (q, dim) float64 → (b, q) float64.

    A score depends on its row and its target alone: not on the block, the other targets or the number of threads. Rows
    that do not lie one after another are copied first. ``alone``: on the calling thread only. Raises SchemaError where
    the dimensions differ.
    """
    block, targets = paired(block, targets)
    rows, count = len(block), len(targets)
    scores = np.zeros((-(-rows // 4) * 4, count + count % 2))
    if alone or block.size * (count + 1) // 2 < WORTH_WAKING:
        _dot(block, even(targets), scores)
    else:
        with ONE_CALLER:
            _dot_in_parallel(block, even(targets), scores)
    return np.ascontiguousarray(scores[:rows, :count])


def paired(block: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Block and targets as the kernels take them: rows one after another, targets float64. Raises SchemaError."""
    if block.ndim != 2 or targets.ndim != 2 or block.shape[1] != targets.shape[1] or block.dtype != np.uint16:
        raise SchemaError(
            f"rows {block.dtype}{list(block.shape)} and targets {list(targets.shape)} came, expected uint16 [b, dim] "
            "and [q, dim]: take both from one recipe"
        )
    return np.ascontiguousarray(block), np.ascontiguousarray(targets, np.float64)


def even(targets: np.ndarray) -> np.ndarray:
    """Targets with a row of zeros after an odd number of them: kernels take two at a time."""
    if len(targets) % 2 == 0:
        return targets
    return np.concatenate([targets, np.zeros((1, targets.shape[1]))])


@njit(cache=True, nogil=True)
def _add_four(a, b, c, d, total):
    for j in range(total.size):
        x, y = np.float64(as_float32(a[j])), np.float64(as_float32(b[j]))
        z, w = np.float64(as_float32(c[j])), np.float64(as_float32(d[j]))
        total[j] += (x + y) + (z + w)


@njit(cache=True, nogil=True)
def _add_one(a, total):
    for j in range(total.size):
        total[j] += np.float64(as_float32(a[j]))


@njit(cache=True, nogil=True)
def _add_columns(block, groups, order, start, end, sums):
    k = 0
    while k < len(order):
        i = order[k]
        group = groups[i]
        if k + 3 < len(order) and groups[order[k + 3]] == group:
            b, c, d = block[order[k + 1], start:end], block[order[k + 2], start:end], block[order[k + 3], start:end]
            _add_four(block[i, start:end], b, c, d, sums[group, start:end])
            k += 4
        else:
            _add_one(block[i, start:end], sums[group, start:end])
            k += 1


@njit(parallel=True, cache=True, nogil=True)
def _add_columns_in_parallel(block, groups, order, width, sums):
    for tile in prange((block.shape[1] + width - 1) // width):
        _add_columns(block, groups, order, tile * width, min((tile + 1) * width, block.shape[1]), sums)


def add_groups(block: np.ndarray, groups: np.ndarray, sums: np.ndarray, *, alone: bool = False) -> None:
    """Add each row to the sum of its group, in place; a row whose group is negative is left out.

    block (b, dim) uint16, groups (b,) int64 in [−1, g), sums (g, dim) float64, rows one after another. Threads share
    the columns (``alone``: none but the calling one), and rows are taken by group, four at a time. Raises SchemaError
    where the shapes do not fit.
    """
    fits = sums.shape[1:] == block.shape[1:] and groups.shape == block.shape[:1] and sums.flags.c_contiguous
    largest = groups.max(initial=-1)
    if not fits or block.dtype != np.uint16 or sums.dtype != np.float64 or largest >= len(sums):
        raise SchemaError(
            f"rows {block.dtype}{list(block.shape)}, {list(groups.shape)} groups up to {largest} and sums {sums.dtype}"
            f"{list(sums.shape)} came, expected uint16 [b, dim], [b] below g, and float64 [g, dim] in C order"
        )
    block, groups = np.ascontiguousarray(block), np.ascontiguousarray(groups, np.int64)
    order = np.argsort(groups, kind="stable")
    order = order[np.searchsorted(groups[order], 0) :]
    if alone or len(order) * block.shape[1] < WORTH_WAKING:
        _add_columns(block, groups, order, 0, block.shape[1], sums)
    else:
        with ONE_CALLER:
            width = max(NARROWEST, -(-block.shape[1] // get_num_threads()))
            _add_columns_in_parallel(block, groups, order, width, sums)
