"""From a sample's gradient to the direction in which it would move the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from gradstore.errors import CheckpointError

FEATURES = ("adam", "less", "sgd")
LESS_BETAS, LESS_EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Moments:
    """Adam's state at a checkpoint: per parameter name (m, v) float32; ``step`` steps were taken."""

    by_name: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    step: int
    beta1: float
    beta2: float
    eps: float


def direction(feature: str, name: str, gradients: torch.Tensor, moments: Moments | None) -> torch.Tensor:
    """Γ of one parameter for a block of samples: gradients (b, …) float32 → (b, …) float32.

    ``sgd``  g.
    ``adam`` the step that Adam would take on this sample alone next (Kingma & Ba 2015, Alg. 1; LESS §3.1):
             m̂/(√v̂ + ε), m' = β₁m + (1−β₁)g, v' = β₂v + (1−β₂)g², bias-corrected at step t+1, with the betas,
             ε and t of the checkpoint. LESS leaves the bias correction out.
    ``less`` the formula of the released LESS code: m'/√(v' + 1e-8), ε *inside* the root, no bias correction.
             A floor of 1e-4 under the root switches most of the preconditioning off; use it to compare.

    Raises CheckpointError where ``adam`` or ``less`` is asked of a checkpoint without moments.
    """
    if feature == "sgd":
        return gradients
    if moments is None or name not in moments.by_name:
        raise CheckpointError(f"feature {feature} needs Adam's moments of {name}: register them, or use --feature sgd")
    m, v = moments.by_name[name]
    b1, b2 = (moments.beta1, moments.beta2) if feature == "adam" else LESS_BETAS
    m = b1 * m + (1 - b1) * gradients
    v = b2 * v + (1 - b2) * gradients.square()
    if feature == "less":
        return m / (v + LESS_EPS).sqrt()
    t = moments.step + 1
    return (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + moments.eps)
