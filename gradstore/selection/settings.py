"""What a selection is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from gradstore.errors import SelectionError
from gradstore.methods import KNOWN, UNKNOWN

BOUNDARIES = (KNOWN, UNKNOWN, "drop")


@dataclass(frozen=True)
class Settings:
    """How to select. What is None is the method's own choice.

    ``known`` and ``unknown`` are counts ≥ 1; correctness equal to ``threshold`` belongs to the ``boundary`` side, or
    to none (``drop``, as the released GRAIT code); ``seed`` breaks ties and draws. ``known_rule``, ``unknown_rule``
    and ``weights`` replace a part of the method's triple. ``penalty`` λ ≥ 0 is how much of the known side's
    influence is taken off (rules i-ref-minus-i-over, herding). ``quota``: ``subject``, or ``clusters:N``, picks each
    stratum in proportion. ``refusals``: ``one`` text, or the ``pool``. ``target``: SQL condition on samples (less).
    ``reference``: do what the released code does, bug for bug.
    """

    method: str = "grait"
    known: int = 4000
    unknown: int = 1000
    threshold: float = 0.5
    boundary: str | None = None
    seed: int = 0
    known_rule: str | None = None
    unknown_rule: str | None = None
    weights: str | None = None
    temperature: float | None = None
    ess: float | None = None
    weight_total: float | None = None
    cap: float | None = None
    penalty: float | None = None
    quota: str | None = None
    refusals: str | None = None
    target: str | None = None
    reference: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        if self.boundary not in (None, *BOUNDARIES):
            raise SelectionError(f"boundary {self.boundary!r}: expected {', '.join(BOUNDARIES)}")
        if self.known < 1 or self.unknown < 1:
            raise SelectionError(f"{self.known} known and {self.unknown} unknown samples: expected at least 1 of each")
        if not 0 <= self.threshold <= 1:
            raise SelectionError(f"threshold {self.threshold}: correctness is between 0 and 1")
        if self.penalty is not None and not 0 <= self.penalty < float("inf"):
            raise SelectionError(f"penalty {self.penalty}: expected 0 or more, and finite")
        if self.quota is not None and self.quota != "subject" and self.clusters is None:
            raise SelectionError(f"quota {self.quota!r}: expected subject, or clusters:N with N ≥ 2")

        if self.quota is not None and self.reference:
            raise SelectionError(
                f"quota {self.quota!r} with --reference: no released code has quotas, leave out either"
            )

    @property
    def clusters(self) -> int | None:
        """N of ``clusters:N``; None for any other quota."""
        name, _, number = (self.quota or "").partition(":")
        return int(number) if name == "clusters" and number.isdigit() and int(number) >= 2 else None
