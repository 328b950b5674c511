"""Does a feature still say something about its sample? Cosines over the first samples of a run, and words.

On samples that a model has mastered v ≈ 0 and Adam's step is nearly sign(g); elsewhere the first moment, which all
samples share, makes most of it; and an ε above √v switches the preconditioner off. Measured exactly, before the sketch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from gradstore.models.features import LESS_EPS, Direction, Moments, at_zero

ROWS = 64  # samples that are looked at
NEARLY, MOSTLY = 0.9, 0.5


class Watch:
    """Sees gradients on their way to the sketch, parameter by parameter, and keeps five sums a sample."""

    def __init__(self) -> None:
        self._kept: list[torch.Tensor] = []  # of each sample <f,s>, <f,z>, |f|², |s|², |z|²; s = sign(g), z = Γ(0)
        self._batch: dict[int, torch.Tensor] = {}

    @property
    def full(self) -> bool:
        return len(self._kept) >= ROWS

    def begin(self) -> None:
        """A batch starts; what a batch that failed has left is dropped."""
        self._batch = {}

    def see(self, first_row: int, gradients: torch.Tensor, feature: Direction) -> None:
        """Gradients of one parameter for some rows of a batch, (rows, …) float32; half of the places at most, so that
        both responses of a batch are seen."""
        room = min(ROWS // 2, ROWS - len(self._kept)) - first_row
        rows = gradients[: max(0, room)].flatten(1)
        if not len(rows):
            return
        f, s = feature(rows), rows.sign()
        zero = at_zero(feature)
        z = zero.expand_as(f) if zero.numel() else torch.zeros_like(f)
        parts = [(f * s).sum(1), (f * z).sum(1), (f * f).sum(1), (s * s).sum(1), (z * z).sum(1)]
        for i, sums in enumerate(torch.stack(parts, dim=1).double().cpu(), start=first_row):
            self._batch[i] = self._batch[i] + sums if i in self._batch else sums

    def end(self) -> None:
        """The batch is done."""
        self._kept += self._batch.values()
        self._batch = {}

    def report(self) -> dict[str, float | None]:
        """Mean cosine of the feature to the sign of its gradient, and to Γ(0); None where there is none."""
        found = torch.stack([s for s in self._kept if s.isfinite().all()] or [torch.zeros(5).double()])
        fs, fz, ff, ss, zz = found.T
        return {"cosine_to_sign": _mean(fs / (ff * ss).sqrt()), "cosine_to_shared_step": _mean(fz / (ff * zz).sqrt())}


def below_eps(feature: str, moments: Moments | None) -> float | None:
    """Share of second moments v below ε²; for ``less``, whose ε is inside the root, below ε. None without moments."""
    if moments is None or not moments.by_name:
        return None
    floor = LESS_EPS if feature == "less" else moments.eps**2
    below = sum(int((v < floor).sum()) for _, v in moments.by_name.values())
    return below / sum(v.numel() for _, v in moments.by_name.values())


def in_words(feature: str, found: Mapping[str, float | None]) -> list[str]:
    """What the numbers mean for the one who reads the rows."""
    words = []
    share, shared, sign = found.get("v_below_eps"), found.get("cosine_to_shared_step"), found.get("cosine_to_sign")
    if feature not in ("sgd", "sign") and share is not None and share > MOSTLY:
        words.append(f"the preconditioner is off: {share:.0%} of the second moments lie below its epsilon")
    if feature not in ("sgd", "sign") and sign is not None and sign > NEARLY:
        words.append(
            f"the features are nearly the signs of their gradients (cosine {sign:.2f}): each sample's own g² drowns v"
        )
    if shared is not None and shared > NEARLY:
        words.append(
            f"the first moment, which all samples share, drowns the sample (cosine {shared:.2f}): "
            "--feature adam-delta takes it away"
        )
    return words


def _mean(values: torch.Tensor) -> float | None:
    kept = values[values.isfinite()]
    return None if not len(kept) or math.isnan(mean := kept.mean().item()) else mean
