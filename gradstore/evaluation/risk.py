"""Risk against coverage: does the model's confidence know when it is wrong?

Questions are answered in order of confidence, most confident first; the risk at coverage k/n is the share of the
first k that is not correct, and AURC the mean of the n risks (Geifman, Uziel & El-Yaniv 2019, arXiv 1805.08206;
0 at best, lower is better). Two things are decided here:

* Equal confidences are one block: the risk inside it is what a random order within the block gives on average, so
  the number does not depend on the order of rows. With g equal confidences after k₀ questions with e₀ errors, e of
  the block wrong, the risk at k₀ + j is (e₀ + j·e/g) / (k₀ + j).
* A refused question is not covered until the end: it is ranked below every answer, and is not correct.
"""

from __future__ import annotations

import numpy as np

from gradstore.errors import GradstoreError


def risk_coverage(
    confidence: np.ndarray, correct: np.ndarray, refused: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The curve: coverage (n,) = 1/n … 1, and the risk (n,) at each, 0–1.

    confidence: (n,) float, any scale; correct, refused: (n,) bool. Raises GradstoreError on n = 0, other lengths, or
    an answer whose confidence is NaN.
    """
    order, starts, wrong = _ranked(confidence, correct, refused)
    ones = np.ones((1, len(order)), dtype=np.int64)
    size, errors = _blocks(ones, order, starts, wrong)
    before = np.repeat(errors.cumsum() - errors[0], size[0])
    inside = np.arange(1, len(order) + 1) - np.repeat(starts, size[0])
    expected = before + inside * np.repeat(errors[0] / size[0], size[0])
    covered = np.arange(1, len(order) + 1)
    return covered / len(order), expected / covered


def aurc(confidence: np.ndarray, correct: np.ndarray, refused: np.ndarray | None = None) -> float:
    """Area under the risk-coverage curve, 0–1: the mean of its n risks. Raises as :func:`risk_coverage`."""
    return float(weighted_aurc(np.ones((1, len(confidence)), dtype=np.int64), confidence, correct, refused)[0])


def weighted_aurc(
    weights: np.ndarray, confidence: np.ndarray, correct: np.ndarray, refused: np.ndarray | None = None
) -> np.ndarray:
    """AURC of each of R resamples: weights (R, n) int64 says how often a question is in it; rows have one sum. → (R,)

    Copies of a question are ties. The sum over a block's risks, e + (e₀ − k₀·e/g)·(H(k₀+g) − H(k₀)) with harmonic
    numbers H, needs no loop over questions.
    """
    order, starts, wrong = _ranked(confidence, correct, refused)
    size, errors = _blocks(weights, order, starts, wrong)
    covered, failed = size.cumsum(axis=1) - size, errors.cumsum(axis=1) - errors  # before the block
    total = int(weights[0].sum())
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, total + 1))])
    rate = np.divide(errors, size, out=np.zeros(size.shape), where=size > 0)
    inside = errors + (failed - covered * rate) * (harmonic[covered + size] - harmonic[covered])
    return inside.sum(axis=1) / total


def _ranked(
    confidence: np.ndarray, correct: np.ndarray, refused: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(the questions, most confident first; where each block of equals starts among them; which are wrong)."""
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=bool)
    last = np.zeros(len(confidence), dtype=bool) if refused is None else np.asarray(refused, dtype=bool)
    if not len(confidence) == len(correct) == len(last):
        raise GradstoreError(
            f"{len(confidence)} confidences, {len(correct)} verdicts and {len(last)} refusals came, expected one each"
        )
    if len(confidence) == 0:
        raise GradstoreError("no risk without questions: the evaluation is empty")
    if np.isnan(confidence[~last]).any():
        lost = int(np.isnan(confidence[~last]).sum())
        raise GradstoreError(f"{lost} answers have no confidence: leave them out, or evaluate again")
    rank = np.where(last, -np.inf, confidence)
    order = np.argsort(-rank, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], rank[order][1:] != rank[order][:-1]]))
    return order, starts, ~correct | last


def _blocks(
    weights: np.ndarray, order: np.ndarray, starts: np.ndarray, wrong: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Questions and errors in each block: two (R, blocks) int64."""
    ranked = weights[:, order]
    return np.add.reduceat(ranked, starts, axis=1), np.add.reduceat(ranked * wrong[order], starts, axis=1)
