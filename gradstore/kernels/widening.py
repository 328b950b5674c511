"""Half floats as numba sees them: uint16 bits. Numba has no float16 on CPUs, so they are widened one at a time.

``as_float32`` has two bodies: LLVM's for compiled kernels (one vcvtph2ps for 8 values on x86), and numpy's for a run
without the compiler (NUMBA_DISABLE_JIT=1), which tests use to see what the loops themselves do.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic, overload

from gradstore.kernels.threads import ONE_CALLER, WORTH_WAKING


@intrinsic
def _fpext(typingctx, bits):
    def generate(context, builder, signature, args):
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


def as_float32(bits):
    """The float32 that the 16 bits of a float16 stand for; exact, NaN and ∞ included."""
    return np.float32(np.uint16(bits).view(np.float16))


@overload(as_float32, inline="always")
def _compiled(bits):
    return lambda bits: _fpext(bits)  # type: ignore[call-arg]


@njit(cache=True, nogil=True)
def _widen_row(row, out):
    for j in range(row.size):
        out[j] = as_float32(row[j])


@njit(cache=True, nogil=True)
def _widen(block, out):
    for i in range(len(block)):
        _widen_row(block[i], out[i])


@njit(parallel=True, cache=True, nogil=True)
def _widen_in_parallel(block, out):
    for i in prange(len(block)):
        _widen_row(block[i], out[i])


def widen(block: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """(b, dim) uint16 as float32, into ``out`` (≥ b rows) where one is given; BLAS takes it from there."""
    block = np.ascontiguousarray(block)
    into = np.empty(block.shape, np.float32) if out is None else out[: len(block)]
    if block.size < WORTH_WAKING:
        _widen(block, into)
    else:
        with ONE_CALLER:
            _widen_in_parallel(block, into)
    return into
