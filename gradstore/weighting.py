"""Loss weights of selected samples: from their influences, from what the model knows, from how gradients add up.

GRAIT's weights are a softmax over the selected unknowns. Its prose wants more weight where a sample teaches
refusing more than over-refusing (I_ref − I_over); the released code has the opposite sign, τ = 0.05 and total
N/2. ``intent`` follows the prose, ``reference`` the code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gradstore.errors import SelectionError
from gradstore.kernels.half import dot

SOFTMAX = ("intent", "reference")
REFERENCE_TEMPERATURE = 0.05


@dataclass(frozen=True)
class Weights:
    """weights (n,) float64 ≥ 0; temperature used (None: uniform); effective sample size 1–n."""

    weights: np.ndarray
    temperature: float | None
    effective_size: float


def weigh(
    i_ref: np.ndarray,
    i_over: np.ndarray,
    rule: str = "intent",
    *,
    temperature: float | None = None,
    ess: float | None = None,
    total: float | None = None,
    cap: float | None = None,
) -> Weights:
    """Weights for n ≥ 1 samples from their influences, both (n,).

    ``temperature`` τ > 0, in units of influence; or ``ess``, the effective sample size (Σw)²/Σw² that τ is to
    reach, in [1, n], default n/2 (at least 1): the scale of influences differs by orders of magnitude between
    models, and the released τ = 0.05 weighs nothing on small ones. ``total`` is Σw > 0, default n (mean 1;
    reference: n/2). ``cap`` is the largest weight; what exceeds it is spread over the others in proportion.
    Raises SelectionError.
    """
    n = len(i_ref)
    if rule not in (*SOFTMAX, "uniform"):
        raise SelectionError(f"weight rule {rule!r} is not one of influences: expected {', '.join(SOFTMAX)}, uniform")
    if temperature is not None and ess is not None:
        raise SelectionError("both a temperature and an effective sample size came: give one of them")
    if temperature is not None and not temperature > 0:
        raise SelectionError(f"temperature {temperature}: expected more than 0")
    score = (i_ref - i_over) * (-1.0 if rule == "reference" else 1.0)
    tau = None if rule == "uniform" else (REFERENCE_TEMPERATURE if rule == "reference" else temperature)
    if rule == "reference" and temperature is not None:
        tau = temperature
    if rule != "uniform" and (tau is None or ess is not None):
        tau = temperature_for(score, max(1.0, n / 2) if ess is None else ess)
    share = softmax(score / tau) if tau is not None else np.full(n, 1.0 / n)
    amount = n * 0.5 if total is None and rule == "reference" else total
    return replace(weigh_by_share(share, total=amount, cap=cap), temperature=tau)


def weigh_by_share(share: np.ndarray, *, total: float | None = None, cap: float | None = None) -> Weights:
    """Weights in proportion to ``share`` (n,) ≥ 0, with Σw = ``total`` (default n: mean 1) and none above ``cap``.

    Shares that are all zero count as equal: there is nothing to tell the samples apart by. Raises SelectionError.
    """
    n = len(share)
    if total is not None and not 0 < total < np.inf:
        raise SelectionError(f"weight total {total}: expected more than 0, and finite")
    peak = float(share.max(initial=0.0))
    scaled = share / peak if peak > 0 else np.ones(n)  # so that equal shares give exactly 1
    weights = scaled * ((n if total is None else total) / max(1.0, float(scaled.sum())))
    if cap is not None:
        weights = spread_excess(weights, cap)
    return Weights(weights, None, effective_size(weights))


def match_mean(rows: np.ndarray, target: np.ndarray, rounds: int = 2000) -> np.ndarray:
    """min ‖Σ_i w_i x_i − μ‖² over w ≥ 0, Σw = 1: rows (k, dim) uint16 (bits of float16), target (dim,) → (k,) float64.

    What weights are for if the chosen are to pull as their whole side does (GradMatch, arXiv 2103.00123; their
    weights have no fixed sum, which changes the step size too). Accelerated projected gradient (Beck & Teboulle
    2009) with restarts; the Gram matrix is k×k, of the chosen alone.
    """
    gram = dot(rows, rows.view(np.float16).astype(np.float64))
    toward = dot(rows, np.ascontiguousarray(target[None, :], np.float64))[:, 0]
    step = 1.0 / max(float(np.abs(gram).sum(axis=1).max()), 1e-30)  # ≥ the largest eigenvalue (Gershgorin)
    weights = ahead = np.full(len(rows), 1.0 / len(rows))
    momentum = 1.0
    for _ in range(rounds):
        new = on_simplex(ahead - step * (gram @ ahead - toward))
        if float((ahead - new) @ (new - weights)) > 0:
            momentum, ahead = 1.0, weights
            new = on_simplex(ahead - step * (gram @ ahead - toward))
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / following * (new - weights)
        if float(np.abs(new - weights).max()) < 1e-12:
            return new
        weights, momentum = new, following
    return weights


def on_simplex(x: np.ndarray) -> np.ndarray:
    """The nearest point of w ≥ 0, Σw = 1 (Duchi et al. 2008, Fig. 1)."""
    ordered = np.sort(x)[::-1]
    excess = (np.cumsum(ordered) - 1) / np.arange(1, len(x) + 1)
    return np.maximum(x - excess[ordered > excess][-1], 0)


def temperature_for(score: np.ndarray, ess: float) -> float | None:
    """The τ at which softmax(score/τ) has effective sample size ``ess``, by bisection in log τ.

    ESS grows with τ, from the number of maxima to n. Returns None where all scores are equal (any τ gives n).
    Raises SelectionError where ``ess`` is outside [1, n].
    """
    n = len(score)
    if not 1 <= ess <= n:
        raise SelectionError(f"effective sample size {ess}, expected 1 to {n}, the number of selected unknowns")
    spread = float(np.ptp(score))
    if spread == 0:
        return None
    low, high = np.log(spread) - 40, np.log(spread) + 14  # 40: below float64's steps
    for _ in range(100):
        middle = (low + high) / 2
        if effective_size(softmax(score / np.exp(middle))) < ess:
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))


def spread_excess(weights: np.ndarray, cap: float) -> np.ndarray:
    """Cut weights at ``cap`` and spread the excess over the others in proportion; the total stays.

    Raises SelectionError where cap·n is below the total: no weights could satisfy both.
    """
    total, n = float(weights.sum()), len(weights)
    if not cap * n >= total * (1 - 1e-12):
        raise SelectionError(
            f"a cap of {cap} on {n} weights holds at most {cap * n:g}, their total is {total:g}: "
            "raise --cap or lower --weight-total"
        )
    capped = np.zeros(n, bool)
    result = weights.astype(np.float64).copy()
    while (over := ~capped & (result > cap)).any():
        capped |= over
        left = total - cap * capped.sum()
        free = weights[~capped].sum()
        result[capped] = cap
        if (~capped).any():
            result[~capped] = weights[~capped] / free * left if free > 0 else left / (~capped).sum()
    return result


def effective_size(weights: np.ndarray) -> float:
    """(Σw)²/Σw² (Kish 1965): how many equal weights carry as much; 0 where all are zero."""
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def softmax(x: np.ndarray) -> np.ndarray:
    """exp(x)/Σexp(x), float64, without overflow."""
    e = np.exp(x - x.max())
    return e / e.sum()
