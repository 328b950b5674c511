"""Metrics of a model that may refuse: shares, the truthful helpfulness score, over-refusal.

CRaFT §4.1 (arXiv 2410.06913), as GRAIT uses them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from gradstore.errors import GradstoreError
from gradstore.judging import CORRECT, REFUSED, UNPARSED, WRONG


@dataclass(frozen=True)
class Shares:
    """Shares of all n test items, 0–1, summing to 1. Unparsed outputs are a class of their own."""

    correct: float
    wrong: float
    refused: float
    unparsed: float
    n: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def shares(verdicts: Sequence[str]) -> Shares:
    """P_c, P_w, P_r of a list of verdicts. Raises GradstoreError on an empty one."""
    if not verdicts:
        raise GradstoreError("no verdicts to count: the evaluation is empty")
    counted, n = Counter(verdicts), len(verdicts)
    correct, wrong, refused, unparsed = (counted[v] / n for v in (CORRECT, WRONG, REFUSED, UNPARSED))
    return Shares(correct, wrong, refused, unparsed, n)


def ths(refined: Shares, initial: Shares) -> float:
    """Truthful helpfulness: P_c2 − P_w2·P_c1/P_w1, ≤ 1; 0 for the initial model itself (CRaFT eq. 5).

    Undefined, and an error, where the initial model makes no mistake (P_w1 = 0).
    """
    if initial.wrong == 0:
        raise GradstoreError("THS is undefined: the initial model makes no mistake on these questions (P_w = 0)")
    return refined.correct - refined.wrong * initial.correct / initial.wrong


def refusal_rates(initial: Sequence[str], refined: Sequence[str]) -> tuple[float | None, float | None]:
    """(over-refusal, hallucinations fixed): the share refused of what was correct, and of what was wrong.

    Both lists hold one verdict an item, in the same order. None where there is nothing to divide by.
    """
    pairs = list(zip(initial, refined, strict=True))

    def share(before: str) -> float | None:
        after = [r for i, r in pairs if i == before]
        return sum(v == REFUSED for v in after) / len(after) if after else None

    return share(CORRECT), share(WRONG)
