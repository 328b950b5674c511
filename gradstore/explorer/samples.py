"""What the page shows of a store and of one sample, without vectors: read by the server itself."""

from __future__ import annotations

from typing import Any

import polars as pl

from gradstore.errors import QueryError
from gradstore.store import GradientStore, find_sample
from gradstore.store.views import frames

FOUND = 50  # samples that a search shows
PROBED = ["correctness", "certainty", "entropy", "choice_probs", "generations", "verdicts", "status"]
CHOSEN = ["selection", "knowledge", "response", "target_text", "rank", "score", "i_ref", "i_over", "weight", "reason"]


def overview(store: GradientStore) -> dict[str, Any]:
    """What is here: rows and columns of every table, and the selections by name."""
    counts = store.row_counts()
    tables = [
        {"name": name, "rows": counts.get(name), "columns": frame.collect_schema().names()}
        for name, frame in sorted(frames(store).items())
    ]
    return {"tables": tables, "selections": selections(store)}


def selections(store: GradientStore) -> list[str]:
    """The names of all selections, sorted."""
    return sorted(store.scan("selections").select("selection").unique().collect()["selection"])


def sample(store: GradientStore, text: str) -> dict[str, Any]:
    """One sample with what is known of it: {sample: {…}, probes: […], selections: […]}.

    ``text`` is its id, or what it alone begins with. Raises StoreError, which names near ones, where there is none.
    """
    sample_id = find_sample(store, text)
    names = store.scan("checkpoints").select("checkpoint_id", checkpoint="name")
    probes = store.scan("probes").filter(pl.col("sample_id") == sample_id)
    chosen = store.scan("selections").filter(pl.col("sample_id") == sample_id)
    return {
        "sample": store.scan("samples").filter(pl.col("sample_id") == sample_id).collect().to_dicts()[0],
        "probes": probes.join(names, on="checkpoint_id", how="left")
        .select("checkpoint", *PROBED)
        .sort("checkpoint", nulls_last=False)
        .collect()
        .to_dicts(),
        "selections": chosen.select(CHOSEN).sort("selection").collect().to_dicts(),
    }


def search(store: GradientStore, text: str) -> dict[str, Any]:
    """Samples whose question holds every word of ``text``, case aside, or whose id starts so: {samples: […], more}."""
    wanted = text.strip()
    if not wanted:
        raise QueryError("an empty search: give a part of a question, or the start of a sample's id")
    lower = pl.col("question").str.to_lowercase()
    question = pl.all_horizontal(lower.str.contains(word, literal=True) for word in wanted.lower().split())
    found = (
        store.scan("samples")
        .select("sample_id", "role", "subject", "question", "ordinal")
        .filter(question | pl.col("sample_id").str.starts_with(wanted))
        .sort("role", "ordinal", "sample_id")
        .head(FOUND + 1)
        .collect()
    )
    return {"samples": found.head(FOUND).drop("ordinal").to_dicts(), "more": found.height > FOUND}
