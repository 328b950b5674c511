"""Which measurements a selection is made from: probe, recipe, checkpoints, prompt. What is not named must be unique."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from gradstore.errors import ProvenanceError, StoreError, mismatch
from gradstore.store import GradientStore


@dataclass(frozen=True)
class Sources:
    """The measurements a selection is made from; what is not named must be the only one of its kind."""

    probe: str | None = None
    recipe: str | None = None
    checkpoints: tuple[str, ...] = ()


def measured(store: GradientStore, sources: Sources, model_id: str) -> tuple[dict[str, Any], dict[str, float]]:
    """The recipe to read, and the checkpoints of the probed model that have gradients under it, with their weights."""
    recipe = _recipe(store, sources.recipe)
    table = f"gradients_{recipe['recipe_id']}"
    present = set(store.scan(table).select("checkpoint_id").unique().collect()["checkpoint_id"])
    known = store.scan("checkpoints").filter(pl.col("checkpoint_id").is_in(sorted(present))).collect()
    wanted = known.filter(pl.col("checkpoint_id").is_in(sources.checkpoints)) if sources.checkpoints else known
    if missing := sorted(set(sources.checkpoints) - present):
        raise StoreError(f"no gradients of checkpoint {missing[0]} under this recipe: there are {sorted(present)}")
    others = wanted.filter(pl.col("model_id") != model_id)
    if others.height:
        found = ", ".join(sorted(set(others["model_id"])))
        raise ProvenanceError(
            f"{others.height} of the checkpoints with gradients are of model {found}, the probe is of {model_id}: "
            "name checkpoints of the probed model with --checkpoint, or another probe with --probe"
        )
    if wanted.height == 0:
        raise StoreError(f"recipe {recipe['recipe_id']} has no gradient rows yet: run `gradstore extract` again")
    rates = dict(wanted.sort("step", "checkpoint_id").select("checkpoint_id", "learning_rate").iter_rows())
    return recipe, _shares(rates)


def _shares(rates: Mapping[str, float]) -> dict[str, float]:
    """Learning rates scaled to sum 1; equal shares where all are zero."""
    total = sum(rates.values())
    return {c: rate / total if total > 0 else 1 / len(rates) for c, rate in rates.items()}


def _recipe(store: GradientStore, wanted: str | None) -> dict[str, Any]:
    stored = store.scan("recipes").filter(pl.col("recipe_id").is_in(store.recipe_ids())).sort("recipe_id").collect()
    if stored.height == 0:
        raise StoreError(f"no gradients in {store.uri}: run `gradstore extract {store.uri} …` first")
    if wanted is not None:
        stored = stored.filter(pl.col("recipe_id") == wanted)
        if stored.height == 0:
            raise ProvenanceError(f"no gradients of recipe {wanted}: there are {', '.join(store.recipe_ids())}")
    if stored.height > 1:
        first, second = (stored.row(i, named=True) for i in (0, 1))
        raise ProvenanceError(
            mismatch(
                f"{stored.height} recipes cannot be compared; {first['recipe_id']} and {second['recipe_id']}",
                first,
                second,
                "Name the one to use with --recipe",
            )
        )
    return stored.row(0, named=True)


def refuse_prompt(store: GradientStore, probe_prompt_id: str) -> dict[str, Any]:
    """The refuse prompt of the model that was probed: the one with the same chat template."""
    asked = read_prompt(store, pl.col("prompt_id") == probe_prompt_id)
    chat = pl.col("chat_template").eq_missing(pl.lit(asked["chat_template"], pl.String))
    return read_prompt(store, (pl.col("template") == "refuse") & chat)


def read_prompt(store: GradientStore, wanted: pl.Expr) -> dict[str, Any]:
    """The one stored prompt that fits. Raises StoreError where there is none, or several."""
    found = store.scan("prompts").collect().filter(wanted).sort("prompt_id")
    if found.height != 1:
        raise StoreError(f"{found.height} prompts fit the probe in {store.uri}, expected one: probe the model again")
    return found.row(0, named=True)
