"""The same metrics subject by subject, over all questions (micro), and as the unweighted mean of subjects (macro).

MMLU is reported as the mean over its 57 subjects; a subject on which the initial model makes no mistake has no THS.
Such subjects are left out of that mean, counted and named. CRaFT's released code does otherwise: it takes the mean
of the shares first and THS of the means, which is here ``ths_of_macro_shares``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradstore.errors import GradstoreError
from gradstore.evaluation.intervals import RESAMPLES, Interval, against, alone, estimate, interval, resampled
from gradstore.evaluation.metrics import AGAINST, ALONE, NO_MISTAKE, Formula
from gradstore.evaluation.transitions import joint_counts


@dataclass(frozen=True)
class BySubject:
    """Metric → interval for each subject, for all questions together, and for the mean of the subjects."""

    each: dict[str, dict[str, Interval]]
    micro: dict[str, Interval]
    macro: dict[str, Interval]


def by_subject(
    refined: Sequence[str],
    subjects: Sequence[str],
    initial: Sequence[str] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> BySubject:
    """Without ``initial`` the metrics of one evaluation by itself, with it those against the initial model.

    All lists have one entry a question, in the same order. For the macro intervals each subject's questions are drawn
    again within the subject. Raises GradstoreError on empty lists or lists of other lengths.
    """
    if len(subjects) != len(refined):
        raise GradstoreError(f"{len(subjects)} subjects came for {len(refined)} verdicts, expected one a question")
    if initial is None:
        lists, formulas = [refined], ALONE
        micro = alone(refined, resamples=resamples, seed=seed)
    else:
        lists, formulas = [initial, refined], AGAINST
        micro = against(initial, refined, resamples=resamples, seed=seed)
    names = sorted(set(subjects))
    members = [[k for k, s in enumerate(subjects) if s == name] for name in names]
    counts = np.stack([joint_counts(*([v[k] for k in m] for v in lists)) for m in members])  # (S, 4) or (S, 4, 4)
    drawn = np.stack([resampled(c, resamples, [seed, i]) for i, c in enumerate(counts)], axis=1)  # (R, S, …)
    return BySubject(
        each={
            name: {metric: estimate(metric, f, counts[i], drawn[:, i]) for metric, f in formulas.items()}
            for i, name in enumerate(names)
        },
        micro=micro,
        macro=_macro(formulas, counts, drawn, names),
    )


def _macro(
    formulas: Mapping[str, Formula], counts: np.ndarray, drawn: np.ndarray, names: Sequence[str]
) -> dict[str, Interval]:
    """Unweighted means over subjects: counts (S, …), drawn (R, S, …)."""
    n, found = int(counts.sum()), {}
    for metric, formula in formulas.items():
        values = formula(counts)  # (S,)
        mean = interval(float(_mean(values)), _mean(formula(drawn)), n, "undefined: in no subject is it defined")
        lost = [name for name, value in zip(names, values, strict=True) if np.isnan(value)]
        found[metric] = replace(mean, note=_said(mean.note, lost, len(names)))
    if "ths" in formulas:
        found["ths_of_macro_shares"] = interval(
            float(formulas["ths"](_mean_shares(counts))), formulas["ths"](_mean_shares(drawn)), n, NO_MISTAKE
        )
    return found


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis of what is defined; NaN where nothing is."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    count = defined.sum(axis=-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _mean_shares(counts: np.ndarray) -> np.ndarray:
    """Counts (…, S, 4, 4) → the mean over subjects of each one's shares (…, 4, 4)."""
    return (counts / counts.sum(axis=(-2, -1), keepdims=True)).mean(axis=-3)


def _said(note: str | None, lost: Sequence[str], subjects: int) -> str | None:
    if not lost:
        return note
    named = ", ".join(lost[:5]) + (", …" if len(lost) > 5 else "")
    left_out = f"undefined in {len(lost)} of {subjects} subjects ({named}), which the mean leaves out"
    return "; ".join(filter(None, [left_out, note]))
