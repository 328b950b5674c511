"""Which of two methods is better, over seeds: paired differences, corrected for how many were looked at; frontiers.

A seed gives both methods the same questions, model, gradients and order of training, so their difference is paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradstore.errors import GradstoreError, MissingExtra

LIMIT = 0.1  # over-refusal up to which a frontier is measured


@dataclass(frozen=True)
class Difference:
    """b − a over n seeds: mean, 95 % interval (Student's t), two-sided p. Interval and p are None for n < 2."""

    mean: float
    low: float | None
    high: float | None
    p: float | None
    n: int


def paired_over_seeds(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Paired t over seeds: ``a`` and ``b`` (n,) in the same order of seeds. Equal differences give p 0, or 1 if zero.

    t rather than a sign-flip test: with five seeds the smallest p of the latter is 0.06, whatever was seen.
    """
    if len(a) != len(b) or not len(a):
        raise GradstoreError(f"{len(a)} and {len(b)} results cannot be paired: run both methods on the same seeds")
    gaps = np.asarray(b, np.float64) - np.asarray(a, np.float64)
    mean, n = float(gaps.mean()), len(gaps)
    if n < 2:
        return Difference(mean, None, None, None, n)
    error = float(gaps.std(ddof=1)) / n**0.5
    if error == 0:
        return Difference(mean, mean, mean, 0.0 if mean else 1.0, n)
    student = _student()
    half = float(student.ppf(0.975, n - 1)) * error
    return Difference(mean, mean - half, mean + half, float(2 * student.sf(abs(mean) / error, n - 1)), n)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment (Holm 1979): name → adjusted p, in the order given; the family is all of ``p``."""
    adjusted, largest = {}, 0.0
    for place, name in enumerate(sorted(p, key=lambda n: p[n])):
        largest = max(largest, min(1.0, (len(p) - place) * p[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p}


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The best of (over-refusal, unknowns refused) points: no other refuses as few knowns and more unknowns.

    Sorted by over-refusal, both coordinates rising.
    """
    best: list[tuple[float, float]] = []
    for over, fixed in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or fixed > best[-1][1]:
            best.append((over, fixed))
    return best


def frontier_area(points: Sequence[tuple[float, float]], limit: float = LIMIT) -> float:
    """Mean over x in [0, limit] of the most unknowns refused at an over-refusal of at most x: 0 to 1.

    A step function of what was reached; nothing is interpolated, and a method that never refuses has 0.
    """
    edges = [*(point for point in frontier(points) if point[0] < limit), (limit, 0.0)]
    return sum(fixed * (edges[i + 1][0] - over) for i, (over, fixed) in enumerate(edges[:-1])) / limit


def _student():
    try:
        from scipy.stats import t
    except ImportError as error:
        raise MissingExtra("scipy", "lab", "a comparison over seeds") from error
    return t
