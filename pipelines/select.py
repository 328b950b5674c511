"""Probes and gradients → ``groups``, ``influence``, ``selections``. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from gradstore import runs
from gradstore.errors import ProvenanceError, SelectionError, StoreError, mismatch
from gradstore.identity import content_id, group_id, row_id
from gradstore.influence import influence
from gradstore.pipelines import Progress, silent
from gradstore.pipelines.work import initial_probe, knowledge, read_samples
from gradstore.schemas import TABLES
from gradstore.selection import METHODS, Settings
from gradstore.selection import select as choose
from gradstore.selection.candidates import KNOWN, UNKNOWN, split
from gradstore.store import GradientStore

RESPONSE = "refusal"


@dataclass(frozen=True)
class Sources:
    """The measurements a selection is made from; what is not named must be the only one of its kind."""

    probe: str | None = None
    recipe: str | None = None
    checkpoints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Selected:
    """What a selection came to."""

    name: str
    counts: dict[str, int]
    temperature: float | None
    effective_size: float
    warnings: list[str]


def select(
    store: GradientStore,
    name: str,
    settings: Settings,
    sources: Sources | None = None,
    *,
    replace: bool = False,
    progress: Progress = silent,
) -> Selected:
    """Group the training samples, compute I_ref and I_over where the method needs them, choose, weigh, and write.

    A name that holds a selection with other settings or from other data is an error, unless ``replace``.
    """
    sources = sources or Sources()
    probe = initial_probe(store, sources.probe)
    frame = _candidates(store, probe["probe_id"])
    gradients = METHODS[settings.method].needs_gradients or settings.weights in ("intent", "reference")
    used: dict[str, Any] = {"probe_id": probe["probe_id"]}
    if gradients:
        recipe, weights = _measured(store, sources, probe["model_id"])
        used |= {"recipe_id": recipe["recipe_id"], "checkpoints": weights}
        frame, groups = _with_influence(store, frame, settings, recipe["recipe_id"], weights, probe, progress)
        used |= {"groups": groups}
        prompt = _prompt(store, recipe["prompt_id"])
    else:
        frame = frame.with_columns(i_ref=pl.lit(None, pl.Float64), i_over=pl.lit(None, pl.Float64))
        prompt = _prompt(store, None)
    asked = {"name": name, **asdict(settings), **used, "prompt_id": prompt["prompt_id"]}
    chosen, weighed, warnings = choose(frame, settings)
    rows = _rows(store, name, content_id("selection", asked), chosen, prompt)
    run = runs.begin(store, "select", asked, ["samples", "probes", "groups"])
    _write(store, name, rows, replace)
    counts = {f"{reason}": n for reason, n in sorted(pl.Series(rows["reason"]).value_counts().iter_rows())}
    for side in (KNOWN, UNKNOWN):
        counts[f"selected {side}"] = sum(
            k == side and r is not None
            for k, r in zip(rows["knowledge"].to_pylist(), rows["rank"].to_pylist(), strict=True)
        )
    run.finish(counts, ["selections", "groups", "influence"])
    return Selected(name, counts, weighed.temperature, weighed.effective_size, warnings)


def _candidates(store: GradientStore, probe_id: str) -> pl.DataFrame:
    """Every training sample with what the probe says of it, and why it cannot be used, if so."""
    ids = pl.DataFrame({"sample_id": list(read_samples(store, "train"))})
    frame = ids.join(knowledge(store, probe_id), on="sample_id", how="left", maintain_order="left")
    problem = (
        pl.when(pl.col("probe_status").is_null())
        .then(pl.lit("not-probed"))
        .when(pl.col("probe_status") != "ok")
        .then(pl.lit("probe-") + pl.col("probe_status"))
        .otherwise(None)
    )
    return frame.with_columns(problem=problem).drop("probe_status")


def _measured(store: GradientStore, sources: Sources, model_id: str) -> tuple[dict[str, Any], dict[str, float]]:
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


def _with_influence(
    store: GradientStore,
    frame: pl.DataFrame,
    settings: Settings,
    recipe_id: str,
    weights: Mapping[str, float],
    probe: Mapping[str, str],
    progress: Progress,
) -> tuple[pl.DataFrame, dict[str, str]]:
    """Add i_ref and i_over, note missing gradients as problems, write groups and influence."""
    frame = _note_gradients(store, frame, recipe_id, list(weights))
    sided = frame.filter(pl.col("problem").is_null()).with_columns(
        side=split(pl.col("correctness"), settings.threshold, settings.boundary)
    )
    members = {side: sorted(sided.filter(pl.col("side") == side)["sample_id"]) for side in (KNOWN, UNKNOWN)}
    for side, ids in members.items():
        if not ids:
            raise SelectionError(
                f"no {side} sample with a usable gradient at threshold {settings.threshold}: influence on an empty "
                "group is undefined; move --threshold, or extract more samples"
            )
    seen = {"n": 0}

    def stream(checkpoint: str) -> Any:
        where = f"checkpoint_id = '{checkpoint}' AND response = '{RESPONSE}'"
        for batch, block in store.blocks(recipe_id, where=where):
            seen["n"] += len(block)
            progress("influence", seen["n"], 2 * len(weights) * frame.height)
            yield batch, block

    scores, _ = influence(stream, members, weights)
    definition = {"probe_id": probe["probe_id"], "threshold": settings.threshold, "boundary": settings.boundary}
    groups = {side: _write_group(store, side, ids, definition) for side, ids in members.items()}
    _write_influence(store, scores, groups, recipe_id, weights)
    renamed = scores.rename({UNKNOWN: "i_ref", KNOWN: "i_over"})
    return frame.join(renamed, on="sample_id", how="left", maintain_order="left"), groups


def _note_gradients(store: GradientStore, frame: pl.DataFrame, recipe_id: str, checkpoints: list[str]) -> pl.DataFrame:
    """A sample needs an ok refusal gradient at every checkpoint; the worst status is its problem."""
    rows = store.scan(f"gradients_{recipe_id}").filter(
        pl.col("response") == RESPONSE, pl.col("checkpoint_id").is_in(checkpoints)
    )
    found = rows.select("sample_id", "status").collect()
    bad = found.filter(pl.col("status") != "ok").group_by("sample_id").agg(pl.col("status").min().alias("bad"))
    good = found.filter(pl.col("status") == "ok").group_by("sample_id").len("good")
    joined = frame.join(bad, on="sample_id", how="left").join(good, on="sample_id", how="left")
    gradient = (
        pl.when(pl.col("bad").is_not_null())
        .then(pl.lit("gradient-") + pl.col("bad"))
        .when(pl.col("good").fill_null(0) < len(checkpoints))
        .then(pl.lit("no-gradient"))
        .otherwise(None)
    )
    return joined.with_columns(problem=pl.coalesce("problem", gradient)).drop("bad", "good").sort("sample_id")


def _write_group(store: GradientStore, name: str, members: list[str], definition: Mapping[str, Any]) -> str:
    text = json.dumps({"name": name, **definition}, sort_keys=True)
    identity = group_id(text, members)
    rows = [
        {"row_id": row_id(identity, i), "group_id": identity, "sample_id": i, "name": name, "definition": text}
        for i in members
    ]
    store.write("groups", pa.Table.from_pylist(rows, schema=TABLES["groups"].schema))
    return identity


def _write_influence(
    store: GradientStore,
    scores: pl.DataFrame,
    groups: Mapping[str, str],
    recipe_id: str,
    weights: Mapping[str, float],
) -> None:
    checkpoints = json.dumps(dict(weights), sort_keys=True)
    rows = [
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
    store.write("influence", pa.Table.from_pylist(rows, schema=TABLES["influence"].schema))


def _prompt(store: GradientStore, prompt_id: str | None) -> dict[str, Any]:
    wanted = pl.col("prompt_id") == prompt_id if prompt_id else pl.col("template") == "refuse"
    found = store.scan("prompts").filter(wanted).sort("prompt_id").collect()
    if found.height != 1:
        raise StoreError(f"{found.height} refuse prompts are stored, expected one: probe the model again")
    return found.row(0, named=True)


def _rows(
    store: GradientStore, name: str, selection_id: str, chosen: pl.DataFrame, prompt: Mapping[str, Any]
) -> pa.Table:
    samples = read_samples(store, "train")
    rows = []
    for r in chosen.iter_rows(named=True):
        own = r["response"] == "answer"
        text = samples[r["sample_id"]]["answer"] if own else prompt["refusal_text"]
        rows.append(
            {
                "row_id": row_id(name, r["sample_id"]),
                "selection": name,
                "selection_id": selection_id,
                "prompt_id": prompt["prompt_id"],
                "target_text": text if r["response"] else None,
                **{k: r[k] for k in ("sample_id", "response", "knowledge", "rank", "score", "i_ref", "i_over")},
                **{k: r[k] for k in ("reason", "weight")},
            }
        )
    return pa.Table.from_pylist(rows, schema=TABLES["selections"].schema)


def _write(store: GradientStore, name: str, rows: pa.Table, replace: bool) -> None:
    present = store.scan("selections").filter(pl.col("selection") == name).select("selection_id").unique().collect()
    same = set(present["selection_id"]) == {rows["selection_id"][0].as_py()}
    if present.height and not same:
        if not replace:
            raise StoreError(
                f"a selection {name!r} with other settings or from other data is stored: "
                "choose another --name, or overwrite it with --replace"
            )
        store.delete("selections", "selection = '" + name.replace("'", "''") + "'")
    store.write("selections", rows)
