"""From a sample's gradient to the direction in which it would move the parameters.

Every feature is one of three formulas over a parameter's gradient g, with constants made once from Adam's state:

    plain    g                                  sign    g/|g|, 0 at 0
    rooted   (a + k₁g) / (√(v + k₂g²) + e)
    delta    the same with what it gives at g = 0 taken away, without subtracting two near-equal numbers
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from gradstore.errors import CheckpointError
from gradstore.kernels.formulas import DELTA, PLAIN, ROOTED, SIGN

FEATURES = ("adam", "adam-delta", "less", "second-moment", "sgd", "sign")
STATELESS = ("sgd", "sign")
LESS_BETAS, LESS_EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Moments:
    """Adam's state at a checkpoint: per parameter name (m, v) float32; ``step`` steps were taken."""

    by_name: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    step: int
    beta1: float
    beta2: float
    eps: float


@dataclass(frozen=True)
class Direction:
    """Γ of one parameter: its formula (``kind``) and constants; ``a`` and ``v`` are (size,) float32, or empty."""

    kind: int
    a: torch.Tensor
    v: torch.Tensor
    k1: float = 1.0
    k2: float = 0.0
    e: float = 0.0

    def __call__(self, gradients: torch.Tensor) -> torch.Tensor:
        """gradients (b, size) → features (b, size), in the gradients' type."""
        g = gradients
        if self.kind == PLAIN:
            return g
        if self.kind == SIGN:
            return torch.where(g.isnan(), g, g.sign())  # torch's sign of NaN is 0
        square = self.k2 * g.square()
        root = (self.v + square).sqrt()
        if self.kind == DELTA:
            both = root + self.v.sqrt()
            grown = torch.where(both > 0, square / both, 0.0)  # √(v + k₂g²) − √v
            return _quotient(self.k1 * g - self.a * grown, root + self.e)
        return _quotient(self.k1 * g + self.a if self.a.numel() else self.k1 * g, root + self.e)


def direction(feature: str, name: str, moments: Moments | None, device: torch.device | None = None) -> Direction:
    """Γ of the parameter ``name`` at a checkpoint.

    ``sgd``            g, the plain gradient.
    ``sign``           g/|g|.
    ``adam``           the step that Adam would take on this sample alone next (Kingma & Ba 2015, Alg. 1; LESS §3.1):
                       m̂/(√v̂ + ε), m' = β₁m + (1−β₁)g, v' = β₂v + (1−β₂)g², bias-corrected at step t+1, with the
                       betas, ε and t of the checkpoint. LESS leaves the bias correction out.
    ``adam-delta``     Γ(g) − Γ(0) of ``adam``: what the sample adds to the step that all samples share.
    ``less``           the formula of the released LESS code: m'/√(v' + 1e-8), ε *inside* the root, no bias
                       correction. A floor of 1e-4 under the root switches most of the preconditioning off.
    ``second-moment``  g/(√v + ε), neither first moment nor bias correction.

    Raises CheckpointError where a feature that needs moments is asked of a checkpoint without them.
    """
    none = torch.empty(0, device=device)
    if feature in STATELESS:
        return Direction(PLAIN if feature == "sgd" else SIGN, none, none)
    if moments is None or name not in moments.by_name:
        raise CheckpointError(f"feature {feature} needs Adam's moments of {name}: register them, or use --feature sgd")
    m, v = (x.to(device).reshape(-1) for x in moments.by_name[name])
    if feature == "second-moment":
        return Direction(ROOTED, none, v, e=moments.eps)
    if feature == "less":
        b1, b2 = LESS_BETAS
        return Direction(ROOTED, b1 * m, b2 * v + LESS_EPS, k1=1 - b1, k2=1 - b2)
    t, b1, b2 = moments.step + 1, moments.beta1, moments.beta2
    a, v = m * (b1 / (1 - b1**t)), v * (b2 / (1 - b2**t))
    k1, k2 = (1 - b1) / (1 - b1**t), (1 - b2) / (1 - b2**t)
    if feature == "adam":
        return Direction(ROOTED, a, v, k1, k2, moments.eps)
    return Direction(DELTA, _quotient(a, v.sqrt() + moments.eps), v, k1, k2, moments.eps)


def at_zero(given: Direction) -> torch.Tensor:
    """Γ(0), (size,): the part of ``adam`` and ``less`` that every sample shares. Empty where there is none."""
    if given.kind != ROOTED or not given.a.numel():
        return given.a[:0]
    return given(torch.zeros_like(given.v)[None])[0]


def _quotient(numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    """0 where the denominator is 0: a parameter that never had a gradient and has none now does not move."""
    return torch.where(denominator != 0, numerator / denominator, 0.0)
