"""What became of each verdict: counts of initial × refined, over {correct, wrong, refused, unparsed}."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradstore.errors import GradstoreError
from gradstore.evaluation.metrics import VERDICTS

_CODE = {verdict: code for code, verdict in enumerate(VERDICTS)}


def joint_counts(*verdicts: Sequence[str]) -> np.ndarray:
    """How often each combination of verdicts came: (4,) for one list, (4, 4) for two, … int64, axes as VERDICTS.

    The lists hold one verdict a question, in the same order. Raises GradstoreError where they are empty, differ in
    length, or hold what is no verdict.
    """
    lengths = [len(v) for v in verdicts]
    if len(set(lengths)) != 1:
        raise GradstoreError(f"lists of {lengths} verdicts came, expected one a question in each: join them by id")
    if lengths[0] == 0:
        raise GradstoreError("no verdicts to count: the evaluation is empty")
    cells = np.ravel_multi_index([_codes(v) for v in verdicts], (len(VERDICTS),) * len(verdicts))
    counts = np.bincount(cells, minlength=len(VERDICTS) ** len(verdicts))
    return counts.reshape((len(VERDICTS),) * len(verdicts)).astype(np.int64)


def transitions(initial: Sequence[str], refined: Sequence[str]) -> dict[str, dict[str, int]]:
    """The table: initial verdict → refined verdict → questions. All sixteen are there, also those with none."""
    counts = joint_counts(initial, refined)
    return {a: {b: int(counts[i, j]) for j, b in enumerate(VERDICTS)} for i, a in enumerate(VERDICTS)}


def _codes(verdicts: Sequence[str]) -> np.ndarray:
    unknown = sorted(set(verdicts) - set(VERDICTS))
    if unknown:
        raise GradstoreError(f"{unknown[0]!r} is no verdict: expected one of {', '.join(VERDICTS)}")
    return np.array([_CODE[v] for v in verdicts])
