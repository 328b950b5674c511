"""The views that a query sees beside the tables: ``gradients`` over all recipes, ``questions`` and ``records``."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from gradstore.schemas import TABLES
from gradstore.store.database import PLAIN_TABLES, VECTOR_PREFIX, GradientStore

GRADIENT_KEYS = ["sample_id", "checkpoint_id", "recipe_id"]
NAMES = tuple(sorted([*PLAIN_TABLES, "gradients", "questions", "records"]))


def frames(store: GradientStore, names: Iterable[str] = NAMES) -> dict[str, pl.LazyFrame]:
    """The tables and views called ``names``; the others are not opened, since each costs milliseconds."""
    makers = {"gradients": gradients, "questions": questions, "records": records}
    return {name: makers[name](store) if name in makers else store.scan(name) for name in sorted(names)}


def gradients(store: GradientStore) -> pl.LazyFrame:
    """All gradient rows. Vectors are arrays; lists where recipes of different dimensions are in the store."""
    parts = [store.scan(VECTOR_PREFIX + recipe) for recipe in store.recipe_ids()]
    if not parts:
        return pl.LazyFrame(pl.from_arrow(TABLES["gradients"].schema.empty_table()))
    if len({part.collect_schema()["vector"] for part in parts}) > 1:
        parts = [part.with_columns(pl.col("vector").cast(pl.List(pl.Float16))) for part in parts]
    return pl.concat(parts)


def questions(store: GradientStore) -> pl.LazyFrame:
    """One row a sample with what a probe of the base model says of it (nulls: not probed); no gradients."""
    return store.scan("samples").join(_initial(store), on="sample_id", how="left")


def records(store: GradientStore) -> pl.LazyFrame:
    """One row a (sample, checkpoint, recipe): question, initial correctness, certainty, both vectors.

    Initial means a probe of the base model; where a sample was probed in several ways, it has a row for each.
    """
    vectors = gradients(store)
    sides = [_side(vectors, response) for response in ("answer", "refusal")]
    both = sides[0].join(sides[1], on=GRADIENT_KEYS, how="full", coalesce=True)
    return both.join(store.scan("samples"), on="sample_id", how="inner").join(
        _initial(store), on="sample_id", how="left"
    )


def _initial(store: GradientStore) -> pl.LazyFrame:
    of_base = store.scan("probes").filter(pl.col("checkpoint_id").is_null())
    return of_base.select("sample_id", "probe_id", "correctness", "certainty", "entropy")


def _side(vectors: pl.LazyFrame, response: str) -> pl.LazyFrame:
    values = [pl.col(c).alias(f"{response}_{c}") for c in ("vector", "norm", "loss", "status")]
    return vectors.filter(pl.col("response") == response).select(*GRADIENT_KEYS, *values)
