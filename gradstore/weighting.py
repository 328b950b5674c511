"""Loss weights of the selected unknown samples, from their influences. Known samples keep weight 1.

GRAIT's weights are a softmax over the selected unknowns. Its prose wants more weight where a sample teaches
refusing more than over-refusing (I_ref − I_over); the released code has the opposite sign, τ = 0.05 and total
N/2. ``intent`` follows the prose, ``reference`` the code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradstore.errors import SelectionError

RULES = ("intent", "reference", "uniform")
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
    if rule not in RULES:
        raise SelectionError(f"weight rule {rule!r}: expected {', '.join(RULES)}")
    if temperature is not None and ess is not None:
        raise SelectionError("both a temperature and an effective sample size came: give one of them")
    if temperature is not None and not temperature > 0:
        raise SelectionError(f"temperature {temperature}: expected more than 0")
    if total is not None and not 0 < total < np.inf:
        raise SelectionError(f"weight total {total}: expected more than 0, and finite")
    score = (i_ref - i_over) * (-1.0 if rule == "reference" else 1.0)
    tau = None if rule == "uniform" else (REFERENCE_TEMPERATURE if rule == "reference" else temperature)
    if rule == "reference" and temperature is not None:
        tau = temperature
    if rule != "uniform" and (tau is None or ess is not None):
        tau = temperature_for(score, max(1.0, n / 2) if ess is None else ess)
    share = softmax(score / tau) if tau is not None else np.full(n, 1.0 / n)
    amount = total if total is not None else n * (0.5 if rule == "reference" else 1.0)
    weights = share * amount
    if cap is not None:
        weights = spread_excess(weights, cap)
    return Weights(weights, tau, effective_size(weights))


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
