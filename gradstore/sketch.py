"""The random projection as data: what it is, and the counter-based hash behind it.

``countsketch``, or sparse Johnson–Lindenstrauss transform with ``sparsity`` non-zeros a coordinate (Charikar, Chen &
Farach-Colton 2002; Kane & Nelson 2014): coordinate i of parameter p adds sign·value/√s to bucket h.
``rademacher``, the dense matrix of signs that LESS and TRAK use, value·sign/√dim to every bucket (Achlioptas 2003).
Bucket and sign are a hash of (seed, name of p, i, k), so the sketch is the same whatever the batch size, block size,
order of modules, or device. This module is numpy; :mod:`gradstore.models.projection` is its torch twin, bit for bit.
"""

import hashlib
from dataclasses import asdict, dataclass

import numpy as np

from gradstore.errors import GradstoreError

KINDS = ("countsketch", "rademacher")
GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB


@dataclass(frozen=True)
class Sketch:
    """kind ``countsketch`` | ``rademacher``; dim ≥ 1 floats; any seed; sparsity 1–16 non-zeros a coordinate
    (``rademacher`` has dim of them, and takes no sparsity but 1)."""

    kind: str = "countsketch"
    dim: int = 8192
    seed: int = 0
    sparsity: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise GradstoreError(f"sketch kind {self.kind!r}: expected {', '.join(KINDS)}")
        if self.kind == "rademacher" and self.sparsity != 1:
            raise GradstoreError(f"a rademacher sketch is dense: sparsity {self.sparsity} belongs to countsketch")
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


def dense_signs(sketch: Sketch, name: str, start: int, stop: int) -> np.ndarray:
    """Rows start…stop of a parameter's Rademacher matrix: (stop − start, dim) ±1 int8.

    A row takes ⌈dim/64⌉ hashes; bit k of hash w, lowest first, is the sign of column 64·w + k (1: negative).
    """
    words = -(-sketch.dim // 64)
    counter = np.arange(start * words, stop * words, dtype=np.uint64)
    with np.errstate(over="ignore"):
        hashed = mix(counter * np.uint64(GOLDEN) + np.uint64(parameter_key(sketch.seed, name)))
    bits = (hashed[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    return 1 - 2 * bits.reshape(stop - start, -1)[:, : sketch.dim].astype(np.int8)
