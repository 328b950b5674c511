"""Plainly slow twins of the evaluation: lists of verdicts, Python loops, resampling question by question.

No twin imports what it checks. Where a twin and its module differ, believe neither: read the formula again.
"""

import itertools
import random
from collections.abc import Callable, Sequence

Pairs = Sequence[tuple[str, str]]  # (initial verdict, refined verdict) a question


def share(verdicts: Sequence[str], verdict: str) -> float:
    return sum(v == verdict for v in verdicts) / len(verdicts)


def numbers(pairs: Pairs) -> dict[str, float | None]:
    """Every metric, counted question by question; None where there is nothing to divide by."""
    initial, refined = [a for a, _ in pairs], [b for _, b in pairs]

    def among(chosen: list[str], verdict: str) -> float | None:
        return share(chosen, verdict) if chosen else None

    p_c1, p_w1 = share(initial, "correct"), share(initial, "wrong")
    p_c2, p_w2 = share(refined, "correct"), share(refined, "wrong")
    was_correct = [b for a, b in pairs if a == "correct"]
    was_wrong = [b for a, b in pairs if a == "wrong"]
    return {
        "correct": p_c2,
        "wrong": p_w2,
        "refused": share(refined, "refused"),
        "unparsed": share(refined, "unparsed"),
        "answered_accuracy": among([b for b in refined if b != "refused"], "correct"),
        "ths": (p_c2 * p_w1 - p_w2 * p_c1) / p_w1 if p_w1 else None,
        "over_refusal": among(was_correct, "refused"),
        "hallucinations_fixed": among(was_wrong, "refused"),
        "refusal_precision": among([a for a, b in pairs if b == "refused"], "wrong"),
        "refusal_recall": among(was_wrong, "refused"),
    }


def bootstrap(
    questions: Sequence, statistic: Callable[[Sequence], float | None], resamples: int, seed: int
) -> tuple[float, float]:
    """The percentile interval by drawing questions with replacement, list by list."""
    generator = random.Random(seed)
    drawn = [statistic(generator.choices(questions, k=len(questions))) for _ in range(resamples)]
    defined = sorted(v for v in drawn if v is not None)
    return quantile(defined, 0.025), quantile(defined, 0.975)


def quantile(ordered: Sequence[float], q: float) -> float:
    """Linear interpolation between the two nearest ranks."""
    at = q * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def aurc(confidence: Sequence[float], correct: Sequence[bool], refused: Sequence[bool]) -> float:
    """The mean area over *every* order that ranks by confidence, refusals last: ties in all their permutations."""
    ranks = [float("-inf") if r else c for c, r in zip(confidence, refused, strict=True)]
    failed = [r or not c for c, r in zip(correct, refused, strict=True)]
    blocks = [[i for i, r in enumerate(ranks) if r == rank] for rank in sorted(set(ranks), reverse=True)]
    areas = []
    for order in itertools.product(*(itertools.permutations(block) for block in blocks)):
        errors = [failed[i] for block in order for i in block]
        areas.append(sum(sum(errors[:k]) / k for k in range(1, len(errors) + 1)) / len(errors))
    return sum(areas) / len(areas)


def macro(pairs: Pairs, subjects: Sequence[str], metric: str) -> float | None:
    """The unweighted mean over subjects; a subject in which the metric is undefined is left out."""
    found = []
    for subject in sorted(set(subjects)):
        value = numbers([p for p, s in zip(pairs, subjects, strict=True) if s == subject])[metric]
        if value is not None:
            found.append(value)
    return sum(found) / len(found) if found else None


def ths_of_macro_shares(pairs: Pairs, subjects: Sequence[str]) -> float:
    """CRaFT's order: each subject's shares, their means, then THS of the means."""
    mean = {}
    for side, verdict in itertools.product((0, 1), ("correct", "wrong")):
        each = [
            share([p[side] for p, s in zip(pairs, subjects, strict=True) if s == subject], verdict)
            for subject in sorted(set(subjects))
        ]
        mean[side, verdict] = sum(each) / len(each)
    odds = mean[0, "correct"] / mean[0, "wrong"]
    return mean[1, "correct"] - mean[1, "wrong"] * odds
