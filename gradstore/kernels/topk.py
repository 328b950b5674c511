"""Running top-k: the k best of a stream, whatever blocks it comes in.

Larger is better; of equal scores the lower position. That is a total order, so the result does not depend on the order
or the size of the blocks. NaN is never among the best. A line is whatever the best are wanted of: a target (its best
rows: give the scores transposed) or a row (its best targets, or neighbours).
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from gradstore.kernels.threads import ONE_CALLER, WORTH_WAKING

NONE = -1  # the position of a slot that is still empty


@njit(cache=True, nogil=True)
def _better(score, position, other, other_position):
    return other_position < 0 or score > other or (score == other and position < other_position)


@njit(cache=True, nogil=True)
def _merge_line(values, places, scores, positions, without):
    worst = values.size - 1
    for j in range(scores.size):
        score, position = scores[j], positions[j]
        if np.isnan(score) or position == without or not _better(score, position, values[worst], places[worst]):
            continue
        k = worst
        while k > 0 and _better(score, position, values[k - 1], places[k - 1]):
            values[k], places[k] = values[k - 1], places[k - 1]
            k -= 1
        values[k], places[k] = score, position


@njit(cache=True, nogil=True)
def _merge(values, places, scores, positions, without):
    for line in range(len(values)):
        _merge_line(values[line], places[line], scores[line], positions, without[line])


@njit(parallel=True, cache=True, nogil=True)
def _merge_in_parallel(values, places, scores, positions, without):
    for line in prange(len(values)):
        _merge_line(values[line], places[line], scores[line], positions, without[line])


class TopK:
    """The best ``k`` of each of ``lines``, so far.

    ``values`` (lines, k) float64, best first, NaN where fewer came; ``places`` (lines, k) int64, −1 there.
    """

    def __init__(self, lines: int, k: int) -> None:
        self.values = np.full((lines, k), np.nan)
        self.places = np.full((lines, k), NONE, np.int64)

    def add(self, scores: np.ndarray, positions: np.ndarray, without: np.ndarray | None = None) -> None:
        """Take in scores (lines, b), float32 or float64, of the candidates at ``positions`` (b,), each seen once.

        ``without`` (lines,) is a position that may not enter its line: a row's own.
        """
        if not self.values.size:
            return
        without = np.full(len(self.values), NONE - 1) if without is None else without
        given = (self.values, self.places, scores, positions.astype(np.int64), without.astype(np.int64))
        if scores.size < WORTH_WAKING:
            _merge(*given)
        else:
            with ONE_CALLER:
                _merge_in_parallel(*given)
