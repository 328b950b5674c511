"""Influence of every sample's response on groups of samples, by group means: never an N×N matrix.

GRAIT §3 (arXiv 2502.05911) and LESS (arXiv 2402.04333): with u_i the unit-norm projected gradient of (question i,
response), the influence of i on a group G is mean_{j∈G} <u_i, u_j> = <u_i, mean_G u>. So one streamed pass makes
the means, another the scores: O(N·dim) time, O(groups·dim) memory. The released GRAIT code forms three N×N
matrices for the same numbers. Up to KEPT_BYTES of vectors the second pass is over the blocks of the first.

* I_ref: group = unknown. I_over: group = known. Response = refusal on both sides.
* The self-term j = i is included for members of the group, as in the released code; it is 1/|G| for every member.
* Several checkpoints: Σ_c η_c <u_i^c, mean_G u^c>, η_c proportional to the learning rates, Σ η_c = 1 (LESS eq. 3).
* Rows whose status is not ok are in no mean and get no score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from threading import local

import numpy as np
import polars as pl
import pyarrow as pa

from gradstore.errors import SelectionError
from gradstore.kernels.half import add_groups, dot
from gradstore.kernels.threads import over_blocks

KEPT_BYTES = 512 << 20  # of vectors: a store's second pass over fewer costs no reading
# Opens a fresh stream of blocks for one checkpoint: ids (b,), vectors (b, dim) uint16 (bits of float16).
Stream = Callable[[str], Iterable[tuple[pa.RecordBatch, np.ndarray]]]


def group_means(
    blocks: Iterable[tuple[pa.RecordBatch, np.ndarray]], membership: Mapping[str, int], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean vector and size of each group: (count, dim) float64, (count,) int64; ids outside all groups are skipped.

    Raises SelectionError where a group has no row.
    """
    own = local()
    every: list[np.ndarray] = []  # a thread adds to sums of its own; they are exact, so it does not matter which did

    def add(item: tuple[pa.RecordBatch, np.ndarray]) -> np.ndarray:
        """Add one block to this thread's sums; returns how many rows of each group it held."""
        batch, block = item
        known = map(membership.get, batch["sample_id"].to_pylist(), repeat(-1))
        groups = np.fromiter(known, np.int64, len(block))
        if not hasattr(own, "sums"):
            own.sums = np.zeros((count, block.shape[1]))
            every.append(own.sums)
        add_groups(block, groups, own.sums, alone=True)
        return np.bincount(groups[groups >= 0], minlength=count)

    sizes = sum(over_blocks(add, blocks), np.zeros(count, np.int64))
    sums = sum(every) if every else None
    if sums is None or (sizes == 0).any():
        raise SelectionError(
            f"a group has no usable gradient (sizes {sizes.tolist()}): influence on an empty group is undefined; "
            "extract gradients of its members, or move the threshold"
        )
    return sums / sizes[:, None], sizes


def influence(
    stream: Stream, groups: Mapping[str, Sequence[str]], weights: Mapping[str, float]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Score every streamed row against each group.

    ``groups`` maps a name to sample ids, which do not overlap; ``weights`` maps checkpoint ids to η > 0, here
    scaled to sum 1. Returns one row a sample that has a usable gradient at *every* checkpoint (sample_id, then a
    float64 column a group, −1 to 1), sorted by sample_id; and the sizes of the groups as used.
    """
    names = list(groups)
    membership = {i: n for n, name in enumerate(names) for i in groups[name]}
    total = sum(weights.values())
    frames, sizes = [], np.zeros(len(names), np.int64)
    for checkpoint, weight in weights.items():
        first = _Remembered(stream(checkpoint))
        means, sizes = group_means(first, membership, len(names))
        again = stream(checkpoint) if first.blocks is None else first.blocks
        frames.append(_scores(again, means * (weight / total), names))
    scored = pl.concat(frames)
    if len(weights) > 1 or scored["sample_id"].n_unique() < len(scored):  # else it is summed already, and a sort is all
        scored = scored.group_by("sample_id").agg(pl.len().alias("n"), *(pl.col(c).sum() for c in names))
        scored = scored.filter(pl.col("n") == len(weights)).drop("n")
    whole = scored.sort("sample_id")
    return whole, dict(zip(names, sizes.tolist(), strict=True))


class _Remembered:
    """A stream whose blocks are there for the second pass, unless they come to more than KEPT_BYTES (None then)."""

    def __init__(self, stream: Iterable[tuple[pa.RecordBatch, np.ndarray]]) -> None:
        self._stream = stream
        self.blocks: list[tuple[pa.RecordBatch, np.ndarray]] | None = []

    def __iter__(self) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
        held = 0
        for batch, block in self._stream:
            held += block.nbytes
            if held > KEPT_BYTES:
                self.blocks = None
            if self.blocks is not None:
                self.blocks.append((batch, block))
            yield batch, block


def _scores(
    blocks: Iterable[tuple[pa.RecordBatch, np.ndarray]], means: np.ndarray, names: Sequence[str]
) -> pl.DataFrame:
    def score(item: tuple[pa.RecordBatch, np.ndarray]) -> pl.DataFrame:
        batch, block = item
        scores = dot(block, means, alone=True)
        columns = {name: scores[:, n] for n, name in enumerate(names)}
        return pl.DataFrame({"sample_id": pl.Series(batch["sample_id"]), **columns})

    return pl.concat(over_blocks(score, blocks))


def target_influence(
    stream: Callable[[str, str], Iterable[tuple[pa.RecordBatch, np.ndarray]]],
    plain: Callable[[str, str], Iterable[tuple[pa.RecordBatch, np.ndarray]]],
    sides: Mapping[str, Sequence[str]],
    targets: Mapping[str, Mapping[str, str]],
    weights: Mapping[str, float],
) -> pl.DataFrame:
    """LESS §3.3: mean influence on each subtask, then the maximum over subtasks; sample_id, target (float64).

    ``sides`` maps a response to the ids that would be trained on it, ``targets`` a response to sample id → subtask of
    the target samples that should give it. ``stream`` opens the rows that are scored, ``plain`` those of the target
    (LESS: the gradient itself), for a checkpoint and a response. Checkpoint weights are scaled to sum 1.
    """
    names = sorted({subtask for members in targets.values() for subtask in members.values()})
    if not names:
        raise SelectionError("the target has no usable gradient: loosen its condition, or extract more samples")
    number, total = {name: n for n, name in enumerate(names)}, sum(weights.values())
    parts = []
    for checkpoint, weight in weights.items():
        sums, sizes = None, np.zeros(len(names))
        for response, members in targets.items():
            for batch, block in plain(checkpoint, response):
                subtasks = [members.get(i) for i in batch["sample_id"].to_pylist()]
                groups = np.array([-1 if s is None else number[s] for s in subtasks], np.int64)
                sums = np.zeros((len(names), block.shape[1])) if sums is None else sums
                add_groups(block, groups, sums)
                sizes += np.bincount(groups[groups >= 0], minlength=len(names))
        if sums is None or (sizes == 0).any():
            raise SelectionError("a subtask of the target has no usable gradient: loosen its condition")
        means = sums / sizes[:, None] * (weight / total)
        for response, ids in sides.items():
            scored = _scores(stream(checkpoint, response), means, [f"subtask {n}" for n in range(len(names))])
            parts.append(scored.filter(pl.col("sample_id").is_in(list(ids))))
    each = pl.col("^subtask .*$")
    whole = pl.concat(parts).group_by("sample_id").agg(pl.len().alias("checkpoints"), each.sum())
    whole = whole.filter(pl.col("checkpoints") == len(weights)).sort("sample_id")
    return whole.select("sample_id", target=pl.max_horizontal(each))
