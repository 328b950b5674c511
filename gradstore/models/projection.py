"""Per-sample gradients → features → sketches, on any device: the same buckets and signs as :mod:`gradstore.sketch`.

Three implementations of one sum, each in the same order (a bucket's coordinates ascending), so that it is stable:
the fused numba kernel on CPUs, the fused Triton kernel on CUDA, and plain torch wherever neither runs.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gradstore.errors import GradstoreError
from gradstore.models.features import Direction
from gradstore.sketch import GOLDEN, MIX_1, MIX_2, Sketch, parameter_key

BACKENDS = ("numba", "triton", "torch")
DENSE_BLOCK = 1024  # coordinates whose rows of a dense matrix are held at once


@dataclass(frozen=True)
class Lists:
    """A parameter's coordinates by bucket: ``entries`` (size·s,) int32, coordinate·2 + (1 if negative), ascending
    within each bucket; bucket j's are entries[offsets[j]:offsets[j+1]], offsets (dim+1,) int32."""

    entries: torch.Tensor
    offsets: torch.Tensor


class Projector:
    """Adds features to sketches, parameter by parameter. Hashes are made once a parameter and kept: 4·s bytes a
    coordinate. ``backend`` ``auto``: numba on CPUs and Triton on CUDA where they are installed, else torch."""

    def __init__(self, sketch: Sketch, device: torch.device, backend: str = "auto") -> None:
        self.sketch = sketch
        self.device = device
        self.backend = _choose(backend, device) if sketch.kind == "countsketch" else "torch"
        self._tables: dict[str, torch.Tensor | Lists] = {}

    def zeros(self, rows: int) -> torch.Tensor:
        """Sketches to add to: (rows, dim) float32."""
        return torch.zeros(rows, self.sketch.dim, dtype=torch.float32, device=self.device)

    def add(self, sketches: torch.Tensor, name: str, gradients: torch.Tensor, feature: Direction) -> None:
        """Add ``feature`` of one parameter's gradients, (rows, …) float32, to ``sketches`` (rows, dim), in place."""
        block = gradients.reshape(len(gradients), -1)
        if self.sketch.kind == "rademacher":
            self._add_dense(sketches, name, feature(block))
        elif self.backend == "numba":
            self._add_numba(sketches, name, block, feature)
        else:
            self._add_lists(sketches, name, block, feature)

    def _add_numba(self, sketches: torch.Tensor, name: str, block: torch.Tensor, f: Direction) -> None:
        from gradstore.kernels.sketching import add_features

        codes = self._table(name, block.shape[1], self._codes).numpy()
        constants = (np.float32(x) for x in (f.k1, f.k2, f.e, 1 / math.sqrt(self.sketch.sparsity)))
        out, g = sketches.numpy(), block.contiguous().numpy()
        add_features(out, g, codes, f.kind, f.a.numpy(), f.v.numpy(), *constants)

    def _add_lists(self, sketches: torch.Tensor, name: str, block: torch.Tensor, f: Direction) -> None:
        lists = self._table(name, block.shape[1], self._lists)
        scale = 1 / math.sqrt(self.sketch.sparsity)
        if self.backend == "triton":
            from gradstore.models.triton_sketch import add_features as add_fused

            add_fused(sketches, block.T.contiguous(), lists.entries, lists.offsets, f, scale)
            return
        entries = lists.entries.long()
        signs = (1 - 2 * (entries & 1)).to(block.dtype) * scale
        values = f(block).T[entries >> 1] * signs[:, None]  # (size·s, rows), bucket after bucket
        sums = torch.segment_reduce(values, "sum", offsets=lists.offsets.long(), initial=0.0, unsafe=True)
        sketches += sums.T

    def _add_dense(self, sketches: torch.Tensor, name: str, features: torch.Tensor) -> None:
        for start in range(0, features.shape[1], DENSE_BLOCK):
            part = features[:, start : start + DENSE_BLOCK]
            signs = dense_signs(self.sketch, name, start, start + part.shape[1], self.device)
            sketches += part @ signs.to(part.dtype) / math.sqrt(self.sketch.dim)

    def _table(self, name: str, size: int, make: Callable[[str, int], torch.Tensor | Lists]) -> Any:
        if name not in self._tables:
            self._tables[name] = make(name, size)
        return self._tables[name]

    def _codes(self, name: str, size: int) -> torch.Tensor:
        buckets, signs = buckets_and_signs(self.sketch, name, size, self.device)
        return (buckets * 2 + (signs < 0)).T.contiguous().to(torch.uint32)

    def _lists(self, name: str, size: int) -> Lists:
        buckets, signs = buckets_and_signs(self.sketch, name, size, self.device)
        coordinate = torch.arange(size, device=self.device).repeat_interleave(self.sketch.sparsity)
        entries = (coordinate * 2 + (signs.reshape(-1) < 0)).int()
        by_bucket, order = buckets.reshape(-1).sort(stable=True)
        edges = torch.arange(self.sketch.dim + 1, device=self.device)
        return Lists(entries[order], torch.searchsorted(by_bucket, edges).int())


def _choose(backend: str, device: torch.device) -> str:
    if backend not in ("auto", *BACKENDS):
        raise GradstoreError(f"backend {backend!r}: expected auto, {', '.join(BACKENDS)}")
    if backend != "auto":
        return backend
    fused = {"cpu": "numba", "cuda": "triton"}.get(device.type)
    return fused if fused and importlib.util.find_spec(fused) else "torch"


def buckets_and_signs(sketch: Sketch, name: str, size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Torch twin of :func:`gradstore.sketch.buckets_and_signs`: (size, s) int64 and (size, s) int8."""
    z = _mix(sketch, name, torch.arange(size * sketch.sparsity, dtype=torch.int64, device=device))
    buckets = _shift(_shift(z, 32) * sketch.dim, 32)
    signs = (1 - 2 * (z & 1)).to(torch.int8)
    return buckets.view(size, -1), signs.view(size, -1)


def dense_signs(sketch: Sketch, name: str, start: int, stop: int, device: torch.device) -> torch.Tensor:
    """Torch twin of :func:`gradstore.sketch.dense_signs`: (stop − start, dim) int8."""
    words = -(-sketch.dim // 64)
    z = _mix(sketch, name, torch.arange(start * words, stop * words, dtype=torch.int64, device=device))
    bits = (z[:, None] >> torch.arange(64, device=device)) & 1  # an arithmetic shift: its low bit is right
    return (1 - 2 * bits.to(torch.int8)).view(stop - start, -1)[:, : sketch.dim]


def _mix(sketch: Sketch, name: str, counter: torch.Tensor) -> torch.Tensor:
    """SplitMix64 of the counter. int64 wraps as uint64 does; only right shifts need their sign bits masked away."""
    z = counter * _signed(GOLDEN) + _signed(parameter_key(sketch.seed, name))
    z = (z ^ _shift(z, 30)) * _signed(MIX_1)
    z = (z ^ _shift(z, 27)) * _signed(MIX_2)
    return z ^ _shift(z, 31)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift(z: torch.Tensor, bits: int) -> torch.Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)
