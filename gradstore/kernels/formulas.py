"""How a feature is computed from a gradient, by number: numba, Triton and torch have a branch for each."""

PLAIN, SIGN, ROOTED, DELTA = range(4)
