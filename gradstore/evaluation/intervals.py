"""95 % intervals by the percentile bootstrap over questions (Efron & Tibshirani 1993, chapter 13), seeded.

A metric of verdicts depends on the questions only through how often each combination of verdicts came. Drawing n
questions with replacement draws those counts from a multinomial, exactly; so a thousand resamples of ten thousand
questions are a thousand small tables. Two refined models judged on the same questions are resampled together, as
counts of (initial, a, b): the interval of their difference knows that hard questions are hard for both.

What the intervals do not hold: that another SFT seed would give another model, and that other questions differ in
more than a random draw of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gradstore.evaluation.metrics import AGAINST, ALONE, UNDEFINED, Formula
from gradstore.evaluation.risk import aurc, weighted_aurc
from gradstore.evaluation.transitions import joint_counts

RESAMPLES = 1000
_CELLS_AT_ONCE = 2_000_000  # of question weights: 16 MB


@dataclass(frozen=True)
class Interval:
    """A number, its 95 % interval and the questions behind it. ``value`` None: undefined, and ``note`` says why."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    note: str | None = None


def alone(verdicts: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Interval]:
    """Every metric that one evaluation has by itself: the shares, and the accuracy of what was answered."""
    counts = joint_counts(verdicts)
    drawn = resampled(counts, resamples, seed)
    return {name: estimate(name, formula, counts, drawn) for name, formula in ALONE.items()}


def against(
    initial: Sequence[str], refined: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Every metric that compares an evaluation with the initial model's, on the same questions in the same order."""
    counts = joint_counts(initial, refined)
    drawn = resampled(counts, resamples, seed)
    return {name: estimate(name, formula, counts, drawn) for name, formula in AGAINST.items()}


def paired(
    initial: Sequence[str], a: Sequence[str], b: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """b − a of every metric, the three judged on the same questions in the same order; one set of resamples for both.

    Identical models have the interval [0, 0]. An interval without 0 is a difference that these questions show.
    """
    counts = joint_counts(initial, a, b)
    drawn = resampled(counts, resamples, seed)
    found = {}
    for name, formula in ALONE.items():
        difference = _difference(formula, a_axes=(-3, -1), b_axes=(-3, -2))
        found[name] = estimate(name, difference, counts, drawn)
    for name, formula in AGAINST.items():
        found[name] = estimate(name, _difference(formula, a_axes=(-1,), b_axes=(-2,)), counts, drawn)
    return found


@dataclass(frozen=True)
class Ranked:
    """What AURC is read from: confidence (n,) float, correct (n,) bool, refused (n,) bool."""

    confidence: np.ndarray
    correct: np.ndarray
    refused: np.ndarray

    def aurc(self) -> float:
        return aurc(self.confidence, self.correct, self.refused)


def aurc_interval(model: Ranked, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """AURC with its interval. It depends on which questions were drawn, so their weights are what is resampled."""
    n = len(model.confidence)
    drawn = [weighted_aurc(w, model.confidence, model.correct, model.refused) for w in _weights(n, resamples, seed)]
    return interval(model.aurc(), np.concatenate(drawn), n, "undefined")


def paired_aurc(a: Ranked, b: Ranked, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """AURC of b − a on the same questions in the same order, from the same resamples."""
    n = len(a.confidence)
    drawn = [
        weighted_aurc(w, b.confidence, b.correct, b.refused) - weighted_aurc(w, a.confidence, a.correct, a.refused)
        for w in _weights(n, resamples, seed)
    ]
    return interval(b.aurc() - a.aurc(), np.concatenate(drawn), n, "undefined")


def resampled(counts: np.ndarray, resamples: int, seed: int | Sequence[int]) -> np.ndarray:
    """``resamples`` tables drawn with replacement from the questions in ``counts``: (R, *counts.shape) int64."""
    n = int(counts.sum())
    drawn = np.random.default_rng(seed).multinomial(n, counts.ravel() / n, size=resamples)
    return drawn.reshape(resamples, *counts.shape)


def estimate(name: str, formula: Formula, counts: np.ndarray, drawn: np.ndarray) -> Interval:
    """A metric of the counts, with the interval that its values on the drawn tables give."""
    sentence = UNDEFINED.get(name, "undefined")
    return interval(float(formula(counts)), formula(drawn), int(counts.sum()), sentence)


def interval(value: float, drawn: np.ndarray, n: int, undefined: str) -> Interval:
    """The 2.5th and 97.5th percentile of the drawn values (R,); NaN among them are left out, and counted."""
    if np.isnan(value):
        return Interval(None, None, None, n, undefined)
    defined = drawn[~np.isnan(drawn)]
    lost = len(drawn) - len(defined)
    note = f"undefined in {lost} of {len(drawn)} resamples, which the interval leaves out" if lost else None
    if len(defined) == 0:
        return Interval(value, None, None, n, note)
    low, high = np.percentile(defined, [2.5, 97.5])
    return Interval(value, float(low), float(high), n, note)


def _difference(formula: Formula, a_axes: tuple[int, ...], b_axes: tuple[int, ...]) -> Formula:
    """b − a on counts (..., initial, a, b): summing over ``a_axes`` leaves what the formula reads of a, likewise b."""
    return lambda counts: formula(counts.sum(axis=b_axes)) - formula(counts.sum(axis=a_axes))


def _weights(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of n questions is in each resample: (r, n) int64, in pieces that fit in memory."""
    generator, left = np.random.default_rng(seed), resamples
    while left > 0:
        rows = min(left, max(1, _CELLS_AT_ONCE // n))
        yield generator.multinomial(n, np.full(n, 1 / n), size=rows)
        left -= rows
