"""What a rule sees: the candidates of one side, and their gradients if it asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from gradstore.errors import SelectionError
from gradstore.kernels.half import add_groups, dot
from gradstore.selection.settings import UNKNOWN, Settings

# (sample ids, response) → their unit-norm gradients (n, dim) uint16, the bits of float16, in that order.
Vectors = Callable[[Sequence[str], str], np.ndarray]


@dataclass(frozen=True)
class Pool:
    """The usable candidates of one ``side``, in the order of the seeded hash of their ids.

    ``frame`` has a row a candidate: sample_id, correctness, certainty, entropy, flow, i_ref, i_over, i_ref_each,
    target, subject, ordinal, order. ``others`` are the usable ids of the other side; ``chosen`` the unknowns that
    were chosen before (the known side is ranked second). ``vectors`` is None where the method said it needs none.
    """

    frame: pl.DataFrame
    side: str
    settings: Settings
    vectors: Vectors | None = None
    others: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()

    @property
    def ids(self) -> list[str]:
        return self.frame["sample_id"].to_list()

    @property
    def response(self) -> str:
        """What this side is trained to say."""
        return "refusal" if self.side == UNKNOWN else "answer"

    def rows(self, response: str | None = None, ids: Sequence[str] | None = None) -> np.ndarray:
        """Gradients (n, dim) uint16 of this side's own response, in the order of the frame."""
        if self.vectors is None:
            raise SelectionError(f"the {self.side} side's rule needs gradients: extract them first")
        return self.vectors(self.ids if ids is None else ids, response or self.response)

    def subset(self, mask: pl.Series) -> Pool:
        return replace(self, frame=self.frame.filter(mask))


@dataclass(frozen=True)
class Rule:
    """A ranking of a pool: ``rank(pool, count)`` → sample_id, score, best first, at least the first ``count``.

    A column ``reason`` (null: may be chosen) says of candidates why they may not. ``needs`` names what must be there:
    influence, vectors, flow, target, several.
    """

    rank: Callable[[Pool, int], pl.DataFrame]
    needs: frozenset[str] = frozenset()


def mean_of(rows: np.ndarray) -> np.ndarray:
    """Mean row (dim,) float64 of (n, dim) uint16; zero where n = 0."""
    sums = np.zeros((1, rows.shape[1]))
    add_groups(rows, np.zeros(len(rows), np.int64), sums)
    return sums[0] / max(1, len(rows))


def products(rows: np.ndarray, target: np.ndarray) -> np.ndarray:
    """<row, target> of every row: (n,) float64 for a target (dim,)."""
    return dot(rows, np.ascontiguousarray(target[None, :], np.float64))[:, 0]


def widened(rows: np.ndarray) -> np.ndarray:
    """uint16 bits of float16 as float64, any shape."""
    return rows.view(np.float16).astype(np.float64)


def ranking(pool: Pool, picked: Sequence[int], scores: Sequence[float]) -> pl.DataFrame:
    """The picked positions of a pool as a ranking."""
    ids = pool.ids
    return pl.DataFrame(
        {"sample_id": [ids[i] for i in picked], "score": [float(s) for s in scores]},
        schema={"sample_id": pl.String, "score": pl.Float64},
    )
