"""Columns of the n×n matrix of products of a side's rows, made when they are asked for. The matrix itself never is.

Reading the rows is most of a column's cost, and two columns cost no more than one; so a caller that has a guess at what
it will want next has it made along. A column is the same bits whenever it is made: a guess changes the time alone.
"""

from __future__ import annotations

import numpy as np

from gradstore.kernels.half import dot
from gradstore.selection.pool import widened

KEPT_BYTES = 256 << 20


class Gram:
    """<x_i, x_j> by columns, of rows (n, dim) uint16. ``kept_bytes`` of columns are kept, the rest is made again."""

    def __init__(self, rows: np.ndarray, kept_bytes: int = KEPT_BYTES) -> None:
        self.rows = rows
        self.kept: dict[int, np.ndarray] = {}
        self.room = kept_bytes // (8 * max(1, len(rows)))

    def columns(self, wanted: np.ndarray) -> np.ndarray:
        """(b, n) float64: a row of it is a column, which for a symmetric matrix is the same."""
        made = self._made([j for j in wanted.tolist() if j not in self.kept])
        return np.stack([self.kept[j] if j in self.kept else made[j] for j in wanted.tolist()])

    def column(self, wanted: int, probably: int = -1) -> np.ndarray:
        """(n,) float64; where it has to be made, the one ``probably`` wanted next (−1: none) is made along with it."""
        if wanted in self.kept:
            return self.kept[wanted]
        return self._made([wanted] if probably < 0 or probably in self.kept else [wanted, probably])[wanted]

    def _made(self, wanted: list[int]) -> dict[int, np.ndarray]:
        if not wanted:
            return {}
        columns = np.ascontiguousarray(dot(self.rows, widened(self.rows[wanted])).T)
        made = {j: column.copy() for j, column in zip(wanted, columns, strict=True)}
        for j in wanted[: max(0, self.room - len(self.kept))]:
            self.kept[j] = made[j]
        return made
