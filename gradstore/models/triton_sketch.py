"""Gradient → feature → CountSketch in one Triton kernel (extra ``triton``).

Deterministic without atomics: the hash is inverted once into lists of coordinates by bucket, and one program owns a
tile of (buckets, rows) of the output. It walks its lists in ascending order of coordinate, reads each gradient, m and
v there once a non-zero, and adds in registers. Gradients come transposed (one copy before the kernel), so that the rows
of a tile lie side by side and a coordinate's read is one whole memory segment; m and v are read once a tile of rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from gradstore.kernels.formulas import DELTA, ROOTED, SIGN
from gradstore.models.features import Direction

BUCKETS, ROWS = 16, 32


@triton.jit
def _kernel(
    sketches, gradients, entries, offsets, a, v, k1, k2, e, scale, rows, dim,
    IS_SIGN: tl.constexpr, IS_ROOTED: tl.constexpr, IS_DELTA: tl.constexpr,
    HAS_A: tl.constexpr, BUCKETS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    bucket = tl.program_id(0) * BUCKETS + tl.arange(0, BUCKETS)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    start = tl.load(offsets + bucket, mask=bucket < dim, other=0)
    count = tl.load(offsets + bucket + 1, mask=bucket < dim, other=0) - start
    total = tl.zeros((BUCKETS, ROWS), dtype=tl.float32)
    for step in range(0, tl.max(count)):
        live = step < count
        entry = tl.load(entries + start + step, mask=live, other=0)
        i = (entry >> 1).to(tl.int64)
        sign = (1 - 2 * (entry & 1)).to(tl.float32)
        here = live[:, None] & (row < rows)[None, :]
        value = tl.load(gradients + i[:, None] * rows + row[None, :], mask=here, other=0.0)
        if IS_SIGN:  # sign; x − x keeps a NaN
            value = tl.where(value > 0, 1.0, tl.where(value < 0, -1.0, value - value))
        elif IS_ROOTED:
            second = tl.load(v + i, mask=live, other=0.0)[:, None]
            square = k2 * value * value
            root = tl.sqrt_rn(second + square)
            up = k1 * value
            if IS_DELTA:
                both = root + tl.sqrt_rn(second)
                grown = tl.where(both > 0, tl.div_rn(square, tl.where(both > 0, both, 1.0)), 0.0)
                up = up - tl.load(a + i, mask=live, other=0.0)[:, None] * grown
            elif HAS_A:
                up = up + tl.load(a + i, mask=live, other=0.0)[:, None]
            down = root + e
            value = tl.where(down != 0, tl.div_rn(up, tl.where(down != 0, down, 1.0)), 0.0)
        total += tl.where(here, value * sign[:, None] * scale, 0.0)
    place = sketches + row[None, :].to(tl.int64) * dim + bucket[:, None]
    inside = (bucket < dim)[:, None] & (row < rows)[None, :]
    tl.store(place, tl.load(place, mask=inside, other=0.0) + total, mask=inside)


def add_features(
    sketches: torch.Tensor,
    gradients: torch.Tensor,
    entries: torch.Tensor,
    offsets: torch.Tensor,
    feature: Direction,
    scale: float,
) -> None:
    """Add the sketched features of one parameter, in place.

    sketches (rows, dim) float32; gradients (size, rows) float32, contiguous; entries and offsets as in
    :class:`gradstore.models.projection.Lists`; scale 1/√s.
    """
    rows, dim = sketches.shape
    grid = (triton.cdiv(dim, BUCKETS), triton.cdiv(rows, ROWS))
    has_a = feature.a.numel() > 0
    a = feature.a if has_a else gradients  # never read then, but Triton wants a pointer
    v = feature.v if feature.v.numel() else gradients
    constants = (feature.k1, feature.k2, feature.e, scale)
    # Python's names are not seen inside a compiled kernel, so the formula goes in as constants.
    formula = {
        "IS_SIGN": feature.kind == SIGN,
        "IS_ROOTED": feature.kind in (ROOTED, DELTA),
        "IS_DELTA": feature.kind == DELTA,
    }
    shape = {"HAS_A": has_a, "BUCKETS": BUCKETS, "ROWS": ROWS}
    _kernel[grid](sketches, gradients, entries, offsets, a, v, *constants, rows, dim, **formula, **shape)
