"""The sketch in torch: the same buckets and signs as :mod:`gradstore.sketch`, on any device."""

from __future__ import annotations

import math

import torch

from gradstore.sketch import GOLDEN, MIX_1, MIX_2, Sketch, parameter_key


class Projector:
    """Adds per-sample features to a block of sketches, parameter by parameter; buckets are made once and kept."""

    def __init__(self, sketch: Sketch, device: torch.device) -> None:
        self.sketch = sketch
        self.device = device
        self._tables: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def zeros(self, rows: int) -> torch.Tensor:
        """Sketches to add to: (dim, rows) float32; coordinates first, so that one add moves whole rows."""
        return torch.zeros(self.sketch.dim, rows, dtype=torch.float32, device=self.device)

    def add(self, sketches: torch.Tensor, name: str, features: torch.Tensor) -> None:
        """Add the features of one parameter, (rows, …) float32, to ``sketches`` (dim, rows), in place."""
        buckets, signs = self._table(name, features[0].numel())
        values = features.reshape(len(features), -1).T  # (size, rows)
        for k in range(self.sketch.sparsity):
            sketches.index_add_(0, buckets[:, k], values * signs[:, k, None])

    def _table(self, name: str, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        if name not in self._tables:
            buckets, signs = buckets_and_signs(self.sketch, name, size, self.device)
            self._tables[name] = buckets, signs.float() / math.sqrt(self.sketch.sparsity)
        return self._tables[name]


def buckets_and_signs(sketch: Sketch, name: str, size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Torch twin of :func:`gradstore.sketch.buckets_and_signs`: (size, s) int64 and (size, s) int8.

    int64 multiplication wraps like uint64's; only right shifts need their sign bits masked away.
    """
    counter = torch.arange(size * sketch.sparsity, dtype=torch.int64, device=device)
    z = counter * _signed(GOLDEN) + _signed(parameter_key(sketch.seed, name))
    z = (z ^ _shift(z, 30)) * _signed(MIX_1)
    z = (z ^ _shift(z, 27)) * _signed(MIX_2)
    z = z ^ _shift(z, 31)
    buckets = _shift(_shift(z, 32) * sketch.dim, 32)
    signs = (1 - 2 * (z & 1)).to(torch.int8)
    return buckets.view(size, -1), signs.view(size, -1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift(z: torch.Tensor, bits: int) -> torch.Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)
