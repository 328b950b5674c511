"""Numbers of a model that may refuse: metrics, transitions, risk against coverage, intervals, means over subjects.

Verdicts and confidences in, numbers out; nothing here knows a store or a model. docs/evaluation.md says what each
number is.
"""

from gradstore.evaluation.intervals import (
    Interval,
    Ranked,
    against,
    alone,
    aurc_interval,
    paired,
    paired_aurc,
)
from gradstore.evaluation.metrics import (
    AGAINST,
    ALONE,
    UNDEFINED,
    VERDICTS,
    Shares,
    measure,
    refusal_rates,
    shares,
    ths,
    ths_or_none,
)
from gradstore.evaluation.risk import aurc, risk_coverage
from gradstore.evaluation.subjects import BySubject, by_subject
from gradstore.evaluation.transitions import joint_counts, transitions

__all__ = [
    "AGAINST",
    "ALONE",
    "UNDEFINED",
    "VERDICTS",
    "BySubject",
    "Interval",
    "Ranked",
    "Shares",
    "against",
    "alone",
    "aurc",
    "aurc_interval",
    "by_subject",
    "joint_counts",
    "measure",
    "paired",
    "paired_aurc",
    "refusal_rates",
    "risk_coverage",
    "shares",
    "ths",
    "ths_or_none",
    "transitions",
]
