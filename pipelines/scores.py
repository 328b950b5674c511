"""Gradients → scores of every candidate, and the rows of ``groups`` and ``influence`` they leave."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import polars as pl
import pyarrow as pa

from gradstore.errors import QueryError, SelectionError
from gradstore.identity import group_id, row_id
from gradstore.influence import influence, target_influence
from gradstore.pipelines import Progress
from gradstore.schemas import TABLES
from gradstore.selection import KNOWN, UNKNOWN, Settings, method_of, split
from gradstore.store import GradientStore

RESPONSE = "refusal"  # of every row that I_ref and I_over multiply


@dataclass
class Derived:
    """Rows of groups and influence, held until the selection is known to be possible."""

    ids: dict[str, str] = field(default_factory=dict)
    group_rows: list[dict[str, Any]] = field(default_factory=list)
    influence_rows: list[dict[str, Any]] = field(default_factory=list)

    def groups(self) -> pa.Table:
        return pa.Table.from_pylist(self.group_rows, schema=TABLES["groups"].schema)

    def influence(self) -> pa.Table:
        return pa.Table.from_pylist(self.influence_rows, schema=TABLES["influence"].schema)


@dataclass(frozen=True)
class Gradients:
    """Which stored gradients a selection reads: one recipe, and checkpoints with their weights η, Σ η = 1.

    ``siblings`` are recipes that differ in the seed of the sketch alone: other looks at the same gradients.
    """

    store: GradientStore
    recipe: Mapping[str, Any]
    weights: Mapping[str, float]
    siblings: tuple[str, ...] = ()

    def stream(self, checkpoint: str, response: str = RESPONSE, recipe: str | None = None) -> Iterable:
        where = f"checkpoint_id = '{checkpoint}' AND response = '{response}'"
        return self.store.blocks(recipe or self.recipe["recipe_id"], where=where)


def members(frame: pl.DataFrame, settings: Settings) -> dict[str, list[str]]:
    """The usable ids of both sides, sorted. Raises SelectionError where a side is empty."""
    boundary = method_of(settings).boundary
    sided = frame.filter(pl.col("problem").is_null()).with_columns(
        side=split(pl.col("correctness"), settings.threshold, boundary)
    )
    found = {side: sorted(sided.filter(pl.col("side") == side)["sample_id"]) for side in (KNOWN, UNKNOWN)}
    for side, ids in found.items():
        if not ids:
            raise SelectionError(
                f"no {side} sample with a usable gradient at threshold {settings.threshold}: influence on an empty "
                "group is undefined; move --threshold, or extract more samples"
            )
    return found


def with_influence(
    frame: pl.DataFrame, gradients: Gradients, settings: Settings, probe_id: str, derived: Derived, progress: Progress
) -> pl.DataFrame:
    """Add i_ref and i_over, and collect rows of groups and influence."""
    groups = members(frame, settings)
    seen = {"n": 0}

    def stream(checkpoint: str) -> Iterable:
        for batch, block in gradients.stream(checkpoint):
            seen["n"] += len(block)
            progress("influence", seen["n"], 2 * len(gradients.weights) * frame.height)
            yield batch, block

    scores, _ = influence(stream, groups, gradients.weights)
    progress("influence", 2 * len(gradients.weights) * frame.height, 2 * len(gradients.weights) * frame.height)
    definition = {"probe_id": probe_id, "threshold": settings.threshold, "boundary": method_of(settings).boundary}
    for side, ids in groups.items():
        text = json.dumps({"name": side, **definition}, sort_keys=True)
        derived.ids[side] = group_id(text, ids)
        derived.group_rows += _group_rows(derived.ids[side], side, ids, text)
    derived.influence_rows += _influence_rows(scores, derived.ids, gradients)
    renamed = scores.rename({UNKNOWN: "i_ref", KNOWN: "i_over"})
    return frame.join(renamed, on="sample_id", how="left", maintain_order="left")


def with_each_influence(frame: pl.DataFrame, gradients: Gradients, settings: Settings) -> pl.DataFrame:
    """Add ``i_ref_each``: I_ref at every checkpoint, through every sketch seed there is. Needs two of them at least."""
    unknown = {UNKNOWN: members(frame, settings)[UNKNOWN]}
    recipes = [str(gradients.recipe["recipe_id"]), *gradients.siblings]
    looks = [(recipe, checkpoint) for recipe in recipes for checkpoint in gradients.weights]
    if len(looks) < 2:
        raise SelectionError(
            "stability needs I_ref more than once, there is one checkpoint through one sketch: extract more epochs, or "
            "the same one with another --sketch-seed"
        )
    parts = []
    for recipe, checkpoint in looks:
        scores, _ = influence(partial(gradients.stream, recipe=recipe), unknown, {checkpoint: 1.0})
        parts.append(scores.select("sample_id", each=pl.col(UNKNOWN)))
    each = pl.concat(parts).group_by("sample_id", maintain_order=True).agg(i_ref_each="each")
    return frame.join(each, on="sample_id", how="left", maintain_order="left")


def with_target(
    store: GradientStore, frame: pl.DataFrame, gradients: Gradients, plain: str | None, settings: Settings
) -> pl.DataFrame:
    """Add ``target``, LESS's score of each row that would be trained on (known: answer; unknown: refusal).

    The target is what the chosen samples should say, by default all candidates; subtasks are subjects. Its gradients
    are read from ``plain``, a recipe of feature sgd with the same sketch, or else from the recipe itself.
    """
    groups = members(frame, settings)
    subject = dict(frame.select("sample_id", pl.col("subject").fill_null("")).iter_rows())
    wanted = _target_ids(store, settings.target)
    sides = {"answer": groups[KNOWN], "refusal": groups[UNKNOWN]}
    of_target = {
        response: {i: subject[i] for i in ids if wanted is None or i in wanted} for response, ids in sides.items()
    }
    scores = target_influence(
        lambda c, response: gradients.stream(c, response),
        lambda c, response: gradients.stream(c, response, plain),
        sides,
        of_target,
        gradients.weights,
    )
    return frame.join(scores, on="sample_id", how="left", maintain_order="left")


def _target_ids(store: GradientStore, target: str | None) -> set[str] | None:
    """The training samples that a SQL condition on ``samples``, or a file of ids (``@file``), names."""
    if target is None:
        return None
    if target.startswith("@"):
        try:
            with open(target[1:], encoding="utf-8") as file:
                ids = {line.strip() for line in file if line.strip()}
        except OSError as error:
            raise SelectionError(f"the target's ids cannot be read from {target[1:]}: {error.strerror}") from error
    else:
        from gradstore.store import query

        try:
            found = query(store, f"SELECT sample_id FROM samples WHERE role = 'train' AND ({target})")
            ids = set(found.collect()["sample_id"])
        except QueryError as error:
            raise SelectionError(f"the target {target!r} is not a condition on samples: {error}") from error
    if not ids:
        raise SelectionError(f"the target {target!r} names no training sample: loosen the condition")
    return ids


def siblings(
    store: GradientStore, recipe: Mapping[str, Any], checkpoints: Iterable[str], *, differ_in: str, value: Any = None
) -> tuple[str, ...]:
    """Recipes with gradients at all ``checkpoints`` that equal this one in all but ``differ_in`` (``value`` there)."""
    stored = store.scan("recipes").filter(pl.col("recipe_id").is_in(store.recipe_ids())).sort("recipe_id").collect()
    same = [r for r in stored.iter_rows(named=True) if r["recipe_id"] != recipe["recipe_id"]]
    free = {"recipe_id", differ_in}
    alike = [
        str(r["recipe_id"])
        for r in same
        if all(r[k] == recipe[k] for k in recipe if k not in free) and value in (None, r[differ_in])
    ]

    def extracted(recipe_id: str) -> set[str]:
        return set(store.scan(f"gradients_{recipe_id}").select("checkpoint_id").unique().collect()["checkpoint_id"])

    return tuple(r for r in alike if extracted(r) >= set(checkpoints))


def _group_rows(identity: str, name: str, ids: list[str], definition: str) -> list[dict[str, Any]]:
    return [
        {"row_id": row_id(identity, i), "group_id": identity, "sample_id": i, "name": name, "definition": definition}
        for i in ids
    ]


def _influence_rows(scores: pl.DataFrame, groups: Mapping[str, str], gradients: Gradients) -> list[dict[str, Any]]:
    checkpoints = json.dumps(dict(gradients.weights), sort_keys=True)
    recipe_id = gradients.recipe["recipe_id"]
    return [
        {
            "row_id": row_id(r["sample_id"], RESPONSE, recipe_id, checkpoints, groups[target]),
            "sample_id": r["sample_id"],
            "response": RESPONSE,
            "recipe_id": recipe_id,
            "checkpoints": checkpoints,
            "group_id": groups[target],
            "target": target,
            "score": r[target],
        }
        for r in scores.iter_rows(named=True)
        for target in groups
    ]
