"""The random projection as data: what it is, and the counter-based hash behind it.

CountSketch, or sparse Johnson–Lindenstrauss transform with ``sparsity`` non-zeros a coordinate (Charikar, Chen &
Farach-Colton 2002; Kane & Nelson 2014): coordinate i of parameter p adds sign·value/√s to bucket h. Bucket and
sign are a hash of (seed, name of p, i, k), so the sketch is the same whatever the batch size, block size, order
of modules, or device. This module is numpy; :mod:`gradstore.models.projection` is its torch twin, bit for bit.
"""

import hashlib
from dataclasses import asdict, dataclass

import numpy as np

from gradstore.errors import GradstoreError

GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB


@dataclass(frozen=True)
class Sketch:
    """kind ``countsketch``; dim ≥ 1 floats; any seed; sparsity 1–16 non-zeros a coordinate."""

    kind: str = "countsketch"
    dim: int = 8192
    seed: int = 0
    sparsity: int = 1

    def __post_init__(self) -> None:
        if self.kind != "countsketch":
            raise GradstoreError(f"sketch kind {self.kind!r}, expected countsketch")
        if not 1 <= self.dim < 2**31 or not 1 <= self.sparsity <= 16:
            raise GradstoreError(f"sketch of dim {self.dim} and sparsity {self.sparsity}: dim ≥ 1, sparsity 1–16")

    def as_columns(self) -> dict[str, object]:
        """The settings as columns of the ``recipes`` table."""
        return {f"sketch_{name}": value for name, value in asdict(self).items()}


def parameter_key(seed: int, name: str) -> int:
    """A 64-bit key of (seed, parameter name): where the counter starts."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest(), "little")


def mix(counter: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014) on uint64, any shape."""
    z = counter.astype(np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX_2)
    return z ^ (z >> np.uint64(31))


def buckets_and_signs(sketch: Sketch, name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each coordinate of a parameter goes: buckets (size, s) int64 in [0, dim), signs (size, s) ±1 int8.

    The bucket is the hash's high 32 bits scaled to dim (multiply-shift, no modulo bias beyond 2⁻³²·dim); the
    sign is its lowest bit.
    """
    counter = np.arange(size * sketch.sparsity, dtype=np.uint64)
    with np.errstate(over="ignore"):
        hashed = mix(counter * np.uint64(GOLDEN) + np.uint64(parameter_key(sketch.seed, name)))
    buckets = ((hashed >> np.uint64(32)) * np.uint64(sketch.dim)) >> np.uint64(32)
    signs = 1 - 2 * (hashed & np.uint64(1)).astype(np.int8)
    shape = (size, sketch.sparsity)
    return buckets.astype(np.int64).reshape(shape), signs.reshape(shape)
