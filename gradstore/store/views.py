"""The views that a query sees beside the tables: ``gradients`` over all recipes, ``questions`` and ``records``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import polars as pl

from gradstore.schemas import TABLES
from gradstore.store.database import PLAIN_TABLES, VECTOR_PREFIX, GradientStore

GRADIENT_KEYS = ["sample_id", "checkpoint_id", "recipe_id"]
INITIAL = frozenset({"sample_id", "checkpoint_id", "probe_id", "correctness", "certainty", "entropy"})  # of questions
NAMES = tuple(sorted([*PLAIN_TABLES, "gradients", "questions", "records"]))


def frames(
    store: GradientStore, names: Iterable[str] = NAMES, columns: frozenset[str] | None = None
) -> dict[str, pl.LazyFrame]:
    """The tables and views called ``names``; the others are not opened, since each costs milliseconds.

    ``columns``: all names that a query holds. Tables that were asked for them before come from memory.
    """
    makers = {"gradients": gradients, "records": records}

    needed = None if columns is None else columns | (INITIAL if "questions" in names else set())

    def scan(table: str) -> pl.LazyFrame:
        return store.scan(table) if needed is None else store.warm.scan(store, table, needed)

    found = {}
    for name in sorted(names):
        found[name] = makers[name](store) if name in makers else questions(scan) if name == "questions" else scan(name)
    return found


def gradients(store: GradientStore) -> pl.LazyFrame:
    """All gradient rows. Vectors are arrays; lists where recipes of different dimensions are in the store."""
    parts = [store.scan(VECTOR_PREFIX + recipe) for recipe in store.recipe_ids()]
    if not parts:
        return pl.LazyFrame(pl.from_arrow(TABLES["gradients"].schema.empty_table()))
    if len({part.collect_schema()["vector"] for part in parts}) > 1:
        parts = [part.with_columns(pl.col("vector").cast(pl.List(pl.Float16))) for part in parts]
    return pl.concat(parts)


def questions(scan: Callable[[str], pl.LazyFrame]) -> pl.LazyFrame:
    """One row a sample with what a probe of the base model says of it (nulls: not probed); no gradients."""
    return scan("samples").join(_initial(scan), on="sample_id", how="left")


def records(store: GradientStore) -> pl.LazyFrame:
    """One row a (sample, checkpoint, recipe): question, initial correctness, certainty, both vectors.

    Initial means a probe of the base model; where a sample was probed in several ways, it has a row for each.
    """
    vectors = gradients(store)
    sides = [_side(vectors, response) for response in ("answer", "refusal")]
    both = sides[0].join(sides[1], on=GRADIENT_KEYS, how="full", coalesce=True)
    return both.join(store.scan("samples"), on="sample_id", how="inner").join(
        _initial(store.scan), on="sample_id", how="left"
    )


def _initial(scan: Callable[[str], pl.LazyFrame]) -> pl.LazyFrame:
    of_base = scan("probes").filter(pl.col("checkpoint_id").is_null())
    return of_base.select("sample_id", "probe_id", "correctness", "certainty", "entropy")


def _side(vectors: pl.LazyFrame, response: str) -> pl.LazyFrame:
    values = [pl.col(c).alias(f"{response}_{c}") for c in ("vector", "norm", "loss", "status")]
    return vectors.filter(pl.col("response") == response).select(*GRADIENT_KEYS, *values)
