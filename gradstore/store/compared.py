"""What the functions of :mod:`gradstore.store.functions` come to: gradients streamed past those of a group.

Nothing is multiplied across checkpoints or recipes. Memory: one block of rows and, for nearest neighbours, the
group's vectors as they are stored, members · dim · 2 bytes; while they are gathered, up to three times that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock

import numpy as np
import polars as pl
import pyarrow as pa

from gradstore.errors import QueryError
from gradstore.influence import group_means
from gradstore.kernels.half import dot
from gradstore.kernels.neighbours import neighbours
from gradstore.kernels.threads import over_blocks
from gradstore.kernels.topk import NONE
from gradstore.store.database import VECTOR_PREFIX, GradientStore
from gradstore.store.functions import Call

ONE_AT_A_TIME = Lock()  # Polars runs branches of a plan in threads of its own: one stream of vectors is memory enough
FEW = 1000  # ids that are worth a condition of their own
GROUP_BYTES = 1 << 30


def compared(store: GradientStore, call: Call, members: Sequence[str]) -> pl.DataFrame:
    """row_id and value, of the call's type, for every ok row that has group members at its checkpoint and recipe."""
    with ONE_AT_A_TIME:
        return _compared(store, call, members)


def _compared(store: GradientStore, call: Call, members: Sequence[str]) -> pl.DataFrame:
    parts = [pl.DataFrame(schema={"row_id": pl.String, "value": call.dtype})]
    for recipe, checkpoint in _places(store, call):
        group = f"checkpoint_id = '{checkpoint}' AND response = '{call.response}'" + _listed(members)
        rows = f"checkpoint_id = '{checkpoint}'" + (f" AND {call.where}" if call.where else "")
        stream = store.blocks(recipe, where=rows, columns=["row_id"])
        if call.name in ("influence", "similarity"):
            parts += _cosines(stream, store.blocks(recipe, where=group), members)
        else:
            parts += _nearest(stream, store.blocks(recipe, where=group), members, call)
    return pl.concat(parts)


def has_gradients(store: GradientStore, response: str, members: Sequence[str]) -> bool:
    """Whether any of these samples has an ok gradient of this response; reads no vectors. True of an empty store."""
    good = (pl.col("response") == response) & (pl.col("status") == "ok") & pl.col("sample_id").is_in(list(members))
    tables = [VECTOR_PREFIX + recipe for recipe in store.recipe_ids()]
    return not tables or any(store.scan(t).filter(good).select("row_id").head(1).collect().height for t in tables)


def _places(store: GradientStore, call: Call) -> list[tuple[str, str]]:
    """(recipe, checkpoint) of all gradients that the call's condition leaves."""
    found = []
    for recipe in store.recipe_ids():
        frame = store.scan(VECTOR_PREFIX + recipe)
        if call.where:
            frame = frame.filter(pl.sql_expr(call.where))
        checkpoints = frame.select("checkpoint_id").unique().sort("checkpoint_id").collect()
        found += [(recipe, c) for c in checkpoints["checkpoint_id"]]
    return found


def _listed(members: Sequence[str]) -> str:
    if len(members) > FEW:
        return ""
    return " AND sample_id IN (" + ", ".join("'" + m.replace("'", "''") + "'" for m in members) + ")"


Blocks = Iterator[tuple[pa.RecordBatch, np.ndarray]]


def _cosines(stream: Blocks, group: Blocks, members: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Cosine with the mean of the group's unit vectors; nothing where the group has no usable row here."""
    wanted = dict.fromkeys(members, 0)
    first = next(group, None)
    while first is not None and not any(i in wanted for i in first[0]["sample_id"].to_pylist()):
        first = next(group, None)
    if first is None:
        return
    means, _ = group_means(_again(first, group), wanted, 1)

    def score(item: tuple[pa.RecordBatch, np.ndarray]) -> pl.DataFrame:
        batch, block = item
        return pl.DataFrame({"row_id": pl.Series(batch["row_id"]), "value": dot(block, means, alone=True)[:, 0]})

    yield from over_blocks(score, stream)


def _again(first: tuple[pa.RecordBatch, np.ndarray], rest: Blocks) -> Blocks:
    yield first
    yield from rest


def _nearest(stream: Blocks, group: Blocks, members: Sequence[str], call: Call) -> Iterator[pl.DataFrame]:
    """The largest cosines with single members, ties to the lower id; a sample is not its own neighbour."""
    ids, vectors = _held(group, frozenset(members))
    if not ids:
        return
    at = {i: n for n, i in enumerate(ids)}
    for batch, block in stream:
        own = np.array([at.get(i, NONE) for i in batch["sample_id"].to_pylist()], np.int64)
        scores, places = neighbours(block, vectors, min(call.count, len(ids)), own)
        found = pl.Series([_named(s, p, ids, call.name) for s, p in zip(scores, places, strict=True)], dtype=call.dtype)
        yield pl.DataFrame({"row_id": pl.Series(batch["row_id"]), "value": found})


def _named(scores: np.ndarray, places: np.ndarray, ids: list[str], name: str) -> object:
    """One row's neighbours as its function returns them; null where it has none."""
    best = [(ids[p], float(s)) for s, p in zip(scores, places, strict=True) if p != NONE]
    if name == "neighbours":
        return [{"sample_id": i, "similarity": score} for i, score in best]
    return best[0][0 if name == "nearest" else 1] if best else None


def _held(group: Blocks, members: frozenset[str]) -> tuple[list[str], np.ndarray]:
    """The group's ids, sorted, and their vectors (m, dim) uint16."""
    ids: list[str] = []
    parts: list[np.ndarray] = []
    for batch, block in group:
        names = batch["sample_id"].to_pylist()
        kept = [n for n, i in enumerate(names) if i in members]
        ids += [names[n] for n in kept]
        parts.append(block[kept])
        if sum(p.nbytes for p in parts) > GROUP_BYTES:
            raise QueryError(
                f"a group of nearest neighbours holds more than {GROUP_BYTES >> 30} GiB of vectors: narrow its SELECT"
            )
    if not ids:
        return [], np.zeros((0, 0), np.uint16)
    order = np.argsort(np.array(ids))
    return [ids[n] for n in order], np.concatenate(parts)[order]
