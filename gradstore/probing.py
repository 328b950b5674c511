"""Correctness and certainty of a model on one question, from letter probabilities or from sampled answers.

Correctness μ is p(gold) or the share of correct samples (CRaFT §3.1, GRAIT step 1). Certainty is scaled to 0–1,
1 = certain, for both tasks; CRaFT uses −H (multiple choice) and mean cosine (open), whose ranges differ.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gradstore.judging import CORRECT, REFUSED, judge_open, normalise_answer

Certainty = Callable[[Sequence[str]], float]


@dataclass(frozen=True)
class Knowledge:
    """correctness 0–1, certainty 0–1 (1 = certain), entropy ≥ 0 in nats, verdicts (open questions)."""

    correctness: float
    certainty: float
    entropy: float
    verdicts: list[str] | None = None


def from_choices(probabilities: Sequence[float], gold: int) -> Knowledge:
    """Knowledge of a multiple-choice question from p over its k ≥ 2 options, summing to 1.

    certainty = 1 − H/ln k. The released CRaFT code normalises the letters one after another, each by a sum that
    holds already normalised ones (methods: p(A) is divided by more than p(D)); here all share one sum.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    p = p / p.sum()
    entropy = _entropy(p)
    return Knowledge(float(p[gold]), _certainty(entropy, len(p)), entropy)


def from_samples(
    generations: Sequence[str],
    aliases: Sequence[str],
    certainty: Certainty | None = None,
    refusal_texts: Sequence[str] = (),
) -> Knowledge:
    """Knowledge of an open question from n ≥ 1 sampled answers; a refused one counts as not correct.

    Answers are counted after :func:`gradstore.judging.normalise_answer`, refusals as one answer;
    certainty = 1 − H/ln n unless another measure is given.
    """
    verdicts = [judge_open(g, aliases, refusal_texts) for g in generations]
    counted = Counter(None if v == REFUSED else normalise_answer(g) for g, v in zip(generations, verdicts, strict=True))
    entropy = _entropy(np.array(list(counted.values())) / len(generations))
    agreement = _certainty(entropy, len(generations))
    correctness = sum(v == CORRECT for v in verdicts) / len(verdicts)
    return Knowledge(correctness, certainty(generations) if certainty else agreement, entropy, verdicts)


def mean_cosine(embeddings: np.ndarray) -> float:
    """Mean pairwise cosine of n unit rows (n, d), the diagonal left out, clipped to 0–1; 1.0 for n = 1.

    CRaFT's certainty of open answers, there rounded to two decimals and not clipped.
    """
    n = len(embeddings)
    if n < 2:
        return 1.0
    total = embeddings.sum(axis=0, dtype=np.float64)
    own = float((embeddings.astype(np.float64) ** 2).sum())
    return float(np.clip((total @ total - own) / (n * (n - 1)), 0.0, 1.0))


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return max(0.0, float(-(p * np.log(p)).sum()))


def _certainty(entropy: float, outcomes: int) -> float:
    return 1.0 if outcomes < 2 else min(1.0, max(0.0, 1.0 - entropy / math.log(outcomes)))
