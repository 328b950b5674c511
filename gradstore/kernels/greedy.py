"""One step of herding, and the gains of facility location: loops that numpy would make temporaries for."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from gradstore.kernels.threads import ONE_CALLER, WORTH_WAKING


@njit(cache=True, nogil=True)
def herding_step(toward, among, is_open, step):
    """The open candidate of largest step·toward − among, the runner-up, and the score of the first.

    toward, among (n,) float64: products with the mean, and with the sum of what is chosen; is_open (n,) bool. Of equals
    the first; −1 where no (other) candidate's score is a number.
    """
    best = second = -1
    most = next_most = -np.inf
    for i in range(toward.size):
        if is_open[i]:
            score = step * toward[i] - among[i]
            if score > most:
                second, next_most = best, most
                best, most = i, score
            elif score > next_most:
                second, next_most = i, score
    return best, second, most


@njit(cache=True, nogil=True)
def _gain(near, covered):
    total = 0.0
    for i in range(covered.size):
        more = near[i] - covered[i]
        if not more <= 0:  # NaN too: a gain that is no number shows
            total += more
    return total


@njit(cache=True, nogil=True)
def _gains(near, covered, out):
    for b in range(len(near)):
        out[b] = _gain(near[b], covered)


@njit(parallel=True, cache=True, nogil=True)
def _gains_in_parallel(near, covered, out):
    for b in prange(len(near)):
        out[b] = _gain(near[b], covered)


def gains(near: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Σ_i max(near[b, i] − covered[i], 0) of each candidate: near (b, n), covered (n,) float64 → (b,) float64."""
    out = np.zeros(len(near))
    if near.size < WORTH_WAKING:
        _gains(near, covered, out)
    else:
        with ONE_CALLER:
            _gains_in_parallel(near, covered, out)
    return out
