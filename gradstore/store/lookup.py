"""A sample by its id, or by the beginning of one; what is near where there is none."""

from __future__ import annotations

import difflib

import polars as pl

from gradstore.errors import StoreError
from gradstore.store.database import GradientStore

NEAR = 5


def find_sample(store: GradientStore, text: str) -> str:
    """The id that ``text`` is, or that alone begins with it. Raises StoreError, naming near ones."""
    samples = store.scan("samples")
    found = samples.filter(pl.col("sample_id").str.starts_with(text)).select("sample_id").head(NEAR + 1).collect()
    ids = sorted(found["sample_id"])
    if text and (text in ids or len(ids) == 1):
        return text if text in ids else ids[0]
    if text and ids:
        listed = ", ".join(ids[:NEAR]) + (", …" if len(ids) > NEAR else "")
        raise StoreError(f"several samples begin with {text!r}: {listed}; give more of the id")
    raise StoreError(f"no sample {text!r} in {store.uri}: {_near(samples, text)}")


def _near(samples: pl.LazyFrame, text: str) -> str:
    """Ids like ``text``, or questions that contain it."""
    for start in (4, 2, 0):  # a million ids are not compared one by one where a few begin alike
        begun = samples.filter(pl.col("sample_id").str.starts_with(text[:start])).select("sample_id").head(20_000)
        heads = {i[: len(text)]: i for i in sorted(begun.collect()["sample_id"], reverse=True)}
        if near := difflib.get_close_matches(text, heads, NEAR, 0.7):
            return "near ones are " + ", ".join(heads[n] for n in near)
    asked = samples.filter(pl.col("question").str.contains(text, literal=True)).select("sample_id", "question")
    rows = asked.head(NEAR).collect().rows() if text else []
    if rows:
        return "questions with these words are " + "; ".join(f"{i} {q[:60]!r}" for i, q in rows)
    return 'list some with `gradstore query STORE "SELECT sample_id, question FROM samples LIMIT 10"`'
