"""Numba kernels over blocks of stored vectors: arrays in, arrays out."""

from gradstore.kernels.half import add_groups, dot

__all__ = ["add_groups", "dot"]
