"""What a report says of gradients: norms, statuses, and how a selection covers the unknown. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from gradstore.conflicts import nearest_kept
from gradstore.errors import GradstoreError
from gradstore.identity import seeded_order
from gradstore.pipelines.candidates import StoredVectors
from gradstore.pipelines.report.data import Gathered
from gradstore.pipelines.sources import Sources, measured
from gradstore.pipelines.work import initial_probe
from gradstore.report.style import SEED
from gradstore.selection.coverage import coverage
from gradstore.store.views import gradients

MOST_VECTORS = 4000  # of a side; a larger group is sampled, so that memory and time stay bounded
NOT_USABLE = ("gradient-", "probe-", "no-gradient", "not-probed")  # reasons that say a row has no vector


@dataclass(frozen=True)
class Covered:
    """nearest (n,): cosine of each unknown that was not chosen with the nearest chosen refusal; numbers of them all."""

    nearest: np.ndarray
    numbers: dict[str, float]
    note: str


def measured_by(found: Gathered) -> tuple[str, dict[str, float]] | None:
    """The recipe and the weights of checkpoints: the selection's own, else the only ones there are, else None."""
    settings = found.chosen.settings if found.chosen else {}
    if "recipe_id" in settings:
        return settings["recipe_id"], dict(settings["checkpoints"])
    try:
        recipe, weights = measured(
            found.store, Sources(), initial_probe(found.store, settings.get("probe_id"))["model_id"]
        )
    except GradstoreError as error:
        if found.store.recipe_ids():
            found.remarks.append(f"Gradients are not compared with the selection: {error}")
        return None
    return recipe["recipe_id"], weights


def norms(found: Gathered) -> pl.DataFrame:
    """response, norm of every row that is ok, over all recipes and checkpoints."""
    rows = gradients(found.store).filter(pl.col("status") == "ok", pl.col("norm") > 0)
    return rows.select("response", "norm").collect().sort("response", "norm")


def statuses(found: Gathered) -> pl.DataFrame:
    """status, response, rows: how many rows of each there are."""
    counted = gradients(found.store).select("status", "response").group_by("status", "response")
    return counted.agg(pl.len().cast(pl.Int64).alias("rows")).sort("status", "response").collect()


def covered(found: Gathered) -> Covered | None:
    """How the chosen refusals lie among the unknowns that have a gradient.

    None where either has none, or where no unknown is left out.
    """
    source = measured_by(found)
    if found.chosen is None or source is None:
        return None
    recipe, weights = source
    rows = found.chosen.rows
    unusable = pl.any_horizontal(pl.col("reason").str.starts_with(prefix) for prefix in NOT_USABLE)
    group = rows.filter(pl.col("knowledge") == "unknown", ~unusable)["sample_id"].to_list()
    chosen = rows.filter(pl.col("response") == "refusal")["sample_id"].to_list()
    kept, part = _some(chosen), _some(group)
    if not part or not kept:
        return None
    try:
        vectors = StoredVectors(found.store, recipe, weights, frozenset([*part, *kept]), keep=False)
        of_group, of_chosen = vectors(part, "refusal"), vectors(kept, "refusal")
    except GradstoreError as error:
        found.remarks.append(f"Coverage is not shown: {error}")
        return None
    taken = set(chosen)
    others = np.array([i not in taken for i in part])
    if not others.any():
        return None
    nearest = nearest_kept(of_group[others].view(np.float16), of_chosen.view(np.float16))
    note = ""
    if len(part) < len(group) or len(kept) < len(chosen):
        note = f"A sample: {len(part):,} of {len(group):,} unknowns, {len(kept):,} of {len(chosen):,} refusals."
    return Covered(nearest, coverage(of_group, of_chosen), note)


def _some(ids: list[str]) -> list[str]:
    """At most MOST_VECTORS ids, by a seeded hash."""
    return sorted(sorted(ids, key=lambda i: seeded_order(SEED, i))[:MOST_VECTORS])
