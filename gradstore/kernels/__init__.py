"""Kernels over blocks of numbers: arrays in, arrays out. Importing the folder imports no numba."""
