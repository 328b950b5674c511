"""The views that a query sees beside the tables: ``gradients`` over all recipes, and ``records``."""

import polars as pl

from gradstore.schemas import TABLES
from gradstore.store.database import PLAIN_TABLES, VECTOR_PREFIX, GradientStore

GRADIENT_KEYS = ["sample_id", "checkpoint_id", "recipe_id"]


def frames(store: GradientStore) -> dict[str, pl.LazyFrame]:
    """Every table and view of the store, by the name a query uses."""
    tables = {name: store.scan(name) for name in PLAIN_TABLES}
    vectors = gradients(store)
    return {**tables, "gradients": vectors, "records": records(tables["samples"], tables["probes"], vectors)}


def gradients(store: GradientStore) -> pl.LazyFrame:
    """All gradient rows. Vectors are arrays; lists where recipes of different dimensions are in the store."""
    parts = [store.scan(VECTOR_PREFIX + recipe) for recipe in store.recipe_ids()]
    if not parts:
        return pl.LazyFrame(pl.from_arrow(TABLES["gradients"].schema.empty_table()))
    if len({part.collect_schema()["vector"] for part in parts}) > 1:
        parts = [part.with_columns(pl.col("vector").cast(pl.List(pl.Float16))) for part in parts]
    return pl.concat(parts)


def records(samples: pl.LazyFrame, probes: pl.LazyFrame, vectors: pl.LazyFrame) -> pl.LazyFrame:
    """One row a (sample, checkpoint, recipe): question, initial correctness, certainty, both vectors.

    Initial means a probe of the base model; where a sample was probed in several ways, it has a row for each.
    """
    initial = probes.filter(pl.col("checkpoint_id").is_null()).select(
        "sample_id", "probe_id", "correctness", "certainty", "entropy"
    )
    sides = [_side(vectors, response) for response in ("answer", "refusal")]
    both = sides[0].join(sides[1], on=GRADIENT_KEYS, how="full", coalesce=True)
    return both.join(samples, on="sample_id", how="inner").join(initial, on="sample_id", how="left")


def _side(vectors: pl.LazyFrame, response: str) -> pl.LazyFrame:
    values = [pl.col(c).alias(f"{response}_{c}") for c in ("vector", "norm", "loss", "status")]
    return vectors.filter(pl.col("response") == response).select(*GRADIENT_KEYS, *values)
