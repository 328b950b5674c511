"""Per-sample gradients of a LoRA adapter from one batched backward.

For a linear y = Wx the gradient of sample i is Σ_t δ_it ⊗ x_it, with δ the gradient at the output (Goodfellow
2015, arXiv 1510.01799). Hooks on the adapter's linears keep x and δ; the weights are frozen, so autograd never
forms a weight gradient, and the graph starts at the first adapter output. Padding has δ = 0: nothing after it is
under the loss, and no real token attends to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from gradstore.models.encoding import IGNORED, Encoded, pad, padding_mask, positions


class GradientHooks:
    """Keeps (inputs, output gradients) of every adapter linear during one forward and backward."""

    def __init__(self, linears: dict[str, nn.Linear]) -> None:
        self._inputs: dict[str, torch.Tensor] = {}
        self._deltas: dict[str, torch.Tensor] = {}
        self._handles = [m.register_forward_hook(self._keep(name)) for name, m in linears.items()]

    def __enter__(self) -> GradientHooks:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self.clear()

    def clear(self) -> None:
        self._inputs.clear()
        self._deltas.clear()

    def gradients(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(parameter name, (b, out, in) float32), one parameter at a time; what was read is let go."""
        for name in list(self._inputs):
            x, delta = self._inputs.pop(name).float(), self._deltas.pop(name).float()
            yield name, torch.einsum("bto,bti->boi", delta, x)

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            self._inputs[name] = args[0].detach()
            if not output.requires_grad:
                output.requires_grad_()
            output.register_hook(lambda delta: self._deltas.__setitem__(name, delta.detach()))

        return hook


def backward(
    model: Any, batch: Sequence[Encoded], *, pad_id: int, device: torch.device, side: str = "right"
) -> torch.Tensor:
    """Run one batch; each sample's loss is the mean over its labelled tokens, in nats: (b,) float32.

    The losses are summed, not averaged, before the backward, so a gradient does not depend on its batch.
    """
    ids = pad([e.ids for e in batch], pad_id, side).to(device)
    mask = padding_mask([e.ids for e in batch], side).to(device)
    labels = pad([e.labels for e in batch], IGNORED, side).to(device)
    with torch.enable_grad():
        output = model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False)
        losses = mean_token_loss(output.logits, labels)
        losses.sum().backward()
    return losses.detach()


def mean_token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over each row's labels: logits (b, t, vocabulary), labels (b, t) → (b,) float32."""
    targets = labels[:, 1:]
    rows, columns = (targets != IGNORED).nonzero(as_tuple=True)
    picked = logits[rows, columns].float()  # only labelled positions are widened: (tokens, vocabulary)
    losses = nn.functional.cross_entropy(picked, targets[rows, columns], reduction="none")
    totals = torch.zeros(len(labels), device=logits.device).index_add(0, rows, losses)
    return totals / torch.bincount(rows, minlength=len(labels)).clamp(min=1)
