"""Per-sample gradients of an adapter from one batched backward, module by module as the backward reaches them.

For a linear y = Wx the gradient of sample i is Σ_t δ_it ⊗ x_it, with δ the gradient at the output (Goodfellow
2015, arXiv 1510.01799). Hooks on the trained modules keep x; when δ arrives the gradient is formed, block by block
of samples, handed on, and let go. The weights are frozen, so autograd never forms a weight's gradient, and the graph
starts at the first adapter output. Padding has δ = 0: nothing after it is under the loss, and no real token sees it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from gradstore.errors import ModelError
from gradstore.models.adapters import Site, is_dora

ADDS_BIAS_LAST = (nn.Linear, Conv1D, nn.LayerNorm)
BLOCK_BYTES = {"cpu": 4 << 20, "cuda": 1 << 29}  # of gradients formed at once: the near cache; a share of a card
HALF_LOSS_SCALE = 1024.0  # float16 gradients of a mean loss fall below its smallest number; a power of two is exact
Sink = Callable[[str, slice, torch.Tensor], None]  # parameter name, rows of the batch, (rows, …) float32
Call = tuple[Any, torch.Tensor]  # what a module was given, and the gradient at its output


class GradientHooks:
    """Sends the per-sample gradients of every site of a model to a sink, during backwards of one recorded forward."""

    def __init__(self, sites: Sequence[Site], loss_scale: float = 1.0) -> None:
        self.loss_scale = loss_scale
        self._rows = 0
        self._recording = self._active = False
        self._calls: Counter[int] = Counter()  # of each site, in the recorded forward
        self._arrived: dict[int, list[Call]] = {}
        self._layer_inputs: dict[int, torch.Tensor] = {}
        self._sink: Sink = _nowhere
        self._sites = list(sites)
        self._handles = []
        for index, site in enumerate(self._sites):
            self._handles.append(site.module.register_forward_hook(partial(self._forward, index), with_kwargs=True))
            if site.layer is not None:
                self._handles.append(site.layer.register_forward_pre_hook(self._note_input))

    def remove(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def recording(self, rows: int) -> Iterator[None]:
        """The forward of ``rows`` samples whose gradients are wanted happens inside; its backwards may, too."""
        self._rows, self._active, self._recording = rows, True, True
        self._calls.clear()
        try:
            yield
        finally:
            self._active = self._recording = False
            self._layer_inputs.clear()
            self._arrived.clear()

    def backward(self, losses: torch.Tensor, sink: Sink, keep_graph: bool = False) -> None:
        """Send the gradients of ``losses`` (b,), each sample's of its own loss: they are summed, not averaged."""
        self._recording, self._sink = False, sink
        self._layer_inputs.clear()
        if silent := [s for i, s in enumerate(self._sites) if not self._calls[i]]:
            names = ", ".join(silent[0].names.values())
            raise ModelError(
                f"{names} is trained, but its module is not called in a forward ({len(silent)} such modules), so its "
                "gradient cannot be read: LoRA on the matrices of fused experts is not supported"
            )
        (losses.sum() * self.loss_scale).backward(retain_graph=keep_graph)
        for index in list(self._arrived):  # a module that was called more often than the loss has heard of
            self._send(index)

    def _note_input(self, layer: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if self._recording:
            self._layer_inputs[id(layer)] = args[0].detach()

    def _forward(self, index: int, module: nn.Module, args: Any, kwargs: Any, output: torch.Tensor) -> None:
        if not self._active or not torch.is_grad_enabled() or (self._sites[index].probed and args[0].ndim == 2):
            return
        if not output.requires_grad:
            output.requires_grad_()  # also when gradient checkpointing computes it again, so that the graphs agree
        if not self._recording:
            return
        if output.shape[0] != self._rows or args[0].shape[0] != self._rows:
            names = ", ".join(self._sites[index].names.values())
            raise ModelError(
                f"{names} sees {tuple(args[0].shape)} for {self._rows} samples: its tokens cannot be told apart by "
                "sample (a mixture of experts?), so leave it out of the adapter"
            )
        self._calls[index] += 1
        given = self._given(index, args, kwargs, output)
        output.register_hook(partial(self._backward, index, given))

    def _given(self, index: int, args: Any, kwargs: Any, output: torch.Tensor) -> Any:
        site, x = self._sites[index], args[0].detach()
        if is_dora(site.module):  # output + base = magnitude · unit; the base layer's bias is not scaled
            base, bias = kwargs["base_result"], kwargs["base_layer"].bias
            return (output + (base if bias is None else base - bias)).detach()
        if (len(args) > 1 or kwargs) and any(_is_replayed(site.module, a) for a in site.names):
            names = ", ".join(site.names.values())
            raise ModelError(
                f"{names} belongs to a {type(site.module).__name__} that is called with more than one argument, so its "
                "gradient cannot be read: leave it out of the adapter"
            )
        noted = self._layer_inputs.get(id(site.layer))
        return noted if noted is not None and noted.shape == x.shape else x

    def _backward(self, index: int, given: Any, delta: torch.Tensor) -> None:
        calls = self._arrived.setdefault(index, [])
        calls.append((given, delta.detach()))
        if len(calls) == self._calls[index]:
            self._send(index)

    @torch.no_grad()
    def _send(self, index: int) -> None:
        site, calls = self._sites[index], self._arrived.pop(index)
        largest = max(p.numel() for p in site.module.parameters(recurse=False))
        size = max(1, BLOCK_BYTES.get(calls[0][1].device.type, 1 << 28) // (4 * largest))
        for start in range(0, self._rows, size):
            rows = slice(start, start + size)
            for attribute, name in site.names.items():
                gradients = sum_of(site_gradients(site.module, attribute, g, d, rows) for g, d in calls)
                self._sink(name, rows, gradients if self.loss_scale == 1 else gradients / self.loss_scale)


def _nowhere(name: str, rows: slice, gradients: torch.Tensor) -> None:
    """Where gradients would go before a backward was given a sink; nothing comes here."""
    raise RuntimeError(f"a gradient of {name} arrived outside of GradientHooks.backward")


def loss_scale(dtype: str) -> float:
    """What losses are multiplied by before the backward, and gradients divided by after it."""
    return HALF_LOSS_SCALE if dtype.startswith("float16") else 1.0


def site_gradients(module: nn.Module, attribute: str, given: Any, delta: torch.Tensor, rows: slice) -> torch.Tensor:
    """Gradients of one parameter of ``module`` for some rows of one call: (rows, …) float32."""
    if _is_replayed(module, attribute):
        return torch.stack([_replayed(module, attribute, x, d) for x, d in zip(given[rows], delta[rows], strict=True)])
    d = delta[rows].float()
    if is_dora(module):
        return (d * given[rows].float()).flatten(1, -2).sum(1) / module.weight.float()
    if attribute == "bias" and isinstance(module, ADDS_BIAS_LAST):
        return d.flatten(1, -2).sum(1)
    return torch.bmm(d.flatten(1, -2).transpose(1, 2), given[rows].float().flatten(1, -2))


def _is_replayed(module: nn.Module, attribute: str) -> bool:
    """Whether a parameter has no rule of its own here."""
    if is_dora(module) or (attribute == "bias" and isinstance(module, ADDS_BIAS_LAST)):
        return False
    return not (attribute == "weight" and isinstance(module, nn.Linear))


def sum_of(parts: Iterator[torch.Tensor]) -> torch.Tensor:
    """A parameter that was used in several calls: its gradients add before any feature is taken of them."""
    total = next(parts)
    for part in parts:
        total = total + part
    return total


def _replayed(module: nn.Module, attribute: str, x: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """One sample through one module again, with autograd: any module of ``modules_to_save``, exactly."""
    parameter = module._parameters[attribute].detach().requires_grad_()  # type: ignore[union-attr]
    with torch.enable_grad():
        output = torch.func.functional_call(module, {attribute: parameter}, (x[None],))
        (gradient,) = torch.autograd.grad(output, parameter, delta[None])
    return gradient.float()
