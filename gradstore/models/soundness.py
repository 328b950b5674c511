"""Is a model's arithmetic sound? Its gradients computed in several ways that should agree, and by how much they do."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gradstore.models.adapters import adapter_parameters, trained_sites
from gradstore.models.encoding import Encoded
from gradstore.models.gradients import GradientHooks, loss_scale
from gradstore.models.loading import checkpoint_activations
from gradstore.models.losses import Forward

NOISY = {"float32": 1e-3, "bfloat16": 1e-1, "float16": 3e-2}  # relative error of a gradient above which it is noise


@dataclass(frozen=True)
class Finding:
    """One comparison: largest relative error of a sample's gradient, and its smallest cosine to what it should be."""

    check: str
    setting: str
    against: str
    error: float
    cosine: float
    limit: float
    note: str = ""

    @property
    def verdict(self) -> str:
        if math.isnan(self.error):
            return "not offered" if math.isinf(self.limit) else "broken"
        return "sound" if self.error <= self.limit else "noisy"


class Patient:
    """One adapted model on one device, and gradients of a few samples in any way asked for: (b, size) float32."""

    def __init__(self, adapted: Any, pad_id: int, device: torch.device, attention: str, dtype: str) -> None:
        self.adapted = adapted.eval().requires_grad_(False)
        sites = trained_sites(adapted)
        head = set(adapted.get_output_embeddings().modules())
        self.forward = Forward(
            adapted, pad_id, device, "mean", attention, all_logits=any(s.module in head for s in sites)
        )
        self._sites, self._loss_scale = sites, loss_scale(dtype)

    def one_by_one(self, batch: Sequence[Encoded]) -> torch.Tensor:
        """Plain autograd, a sample at a time, no padding and no hooks: what everything else is measured against."""
        parameters = list(adapter_parameters(self.adapted).values())
        rows = []
        for encoded in batch:
            for parameter in parameters:
                parameter.requires_grad_(True)
            with torch.enable_grad():
                found = torch.autograd.grad(self.forward.losses([encoded]).sum(), parameters)
            rows.append(torch.cat([g.float().flatten() for g in found]))
        for parameter in parameters:
            parameter.requires_grad_(False)
        return torch.stack(rows)

    def batched(self, batch: Sequence[Encoded], side: str = "right") -> torch.Tensor:
        """All samples in one batch, through the hooks, as extraction does."""
        return self._hooked(len(batch), lambda: [self.forward.losses(batch, side)])[0]

    def sharing_prompts(self, pairs: Sequence[tuple[Encoded, Encoded]]) -> torch.Tensor:
        """Both responses of each pair in one row: the first responses' gradients, then the second's."""
        return torch.cat(self._hooked(len(pairs), lambda: self.forward.shared_losses(pairs)))

    def _hooked(self, rows: int, losses: Any) -> list[torch.Tensor]:
        hooks, found = GradientHooks(self._sites, self._loss_scale), []
        try:
            with hooks.recording(rows), torch.enable_grad():
                computed = losses()
                for n, each in enumerate(computed):
                    parts: defaultdict[str, list[torch.Tensor]] = defaultdict(list)

                    def keep(name: str, _: slice, g: torch.Tensor, parts: Any = parts) -> None:
                        parts[name].append(g.flatten(1))

                    hooks.backward(each, keep, keep_graph=n + 1 < len(computed))
                    found.append(torch.cat([torch.cat(parts[n]) for n in adapter_parameters(self.adapted)], dim=1))
        finally:
            hooks.remove()
        return found


def examine(patient: Patient, pairs: Sequence[tuple[Encoded, Encoded]], dtype: str) -> list[Finding]:
    """Batching, padding, prompt sharing and gradient checkpointing, against one sample at a time."""
    batch = [e for k in (0, 1) for e in (pair[k] for pair in pairs)]
    exact = patient.one_by_one(batch)
    limit = NOISY[dtype.split("/")[0]]
    findings = [
        compare("batching", f"padded {side}", "one by one", exact, patient.batched(batch, side), limit)
        for side in ("right", "left")
    ]
    try:
        shared = patient.sharing_prompts(pairs)
        findings.append(compare("prompt sharing", "prompt once", "one by one", exact, shared, limit))
    except Exception as error:  # a model that takes no mask of its caller's says so in many ways
        findings.append(impossible("prompt sharing", "prompt once", error))
    try:
        checkpoint_activations(patient.adapted)
        thrifty = patient.batched(batch)
        findings.append(compare("gradient checkpointing", "on", "one by one", exact, thrifty, limit))
        patient.adapted.activation_checkpointing_disable()
        patient.adapted.eval()
    except ValueError as error:
        findings.append(impossible("gradient checkpointing", "on", error))
    return findings


def impossible(check: str, setting: str, error: Exception) -> Finding:
    """A way that this model does not offer: no number, and nothing to worry about."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return Finding(check, setting, "", math.nan, math.nan, math.inf, reason)


def compare(check: str, setting: str, against: str, exact: torch.Tensor, found: torch.Tensor, limit: float) -> Finding:
    """The worst sample of two (b, size) gradients of the same samples."""
    a, b = exact.double().cpu(), found.double().cpu()
    error = ((a - b).norm(dim=1) / a.norm(dim=1)).max().item()
    return Finding(check, setting, against, error, torch.cosine_similarity(a, b, dim=1).min().item(), limit)
