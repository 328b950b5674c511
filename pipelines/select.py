"""Probes and gradients → ``groups``, ``influence``, ``selections``. No torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa

from gradstore import runs
from gradstore.errors import SelectionError, StoreError
from gradstore.identity import content_id, group_id, row_id
from gradstore.influence import influence
from gradstore.pipelines import Progress, silent
from gradstore.pipelines.sources import Sources, measured, read_prompt, refuse_prompt
from gradstore.pipelines.work import initial_probe, knowledge, read_samples
from gradstore.schemas import TABLES
from gradstore.selection import METHODS, Settings
from gradstore.selection import select as choose
from gradstore.selection.candidates import KNOWN, UNKNOWN, split
from gradstore.store import GradientStore

RESPONSE = "refusal"


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
    versions = store.versions()
    probe = initial_probe(store, sources.probe)
    frame = _candidates(store, probe["probe_id"])
    derived = _Derived()
    used: dict[str, Any] = {"probe_id": probe["probe_id"]}
    if METHODS[settings.method].needs_gradients or settings.weights in ("intent", "reference"):
        recipe, weights = measured(store, sources, probe["model_id"])
        used |= {"recipe_id": recipe["recipe_id"], "checkpoints": weights}
        frame = _with_influence(store, frame, settings, recipe["recipe_id"], weights, probe, derived, progress)
        prompt = read_prompt(store, pl.col("prompt_id") == recipe["prompt_id"])
    else:
        frame = frame.with_columns(i_ref=pl.lit(None, pl.Float64), i_over=pl.lit(None, pl.Float64))
        prompt = refuse_prompt(store, probe["prompt_id"])
    # The candidates are part of what a selection is made from: with more data the same settings are another one.
    used |= {"groups": derived.ids, "candidates": content_id("candidates", {"rows": frame.write_json()})}
    asked = {"name": name, **asdict(settings), **used, "prompt_id": prompt["prompt_id"]}
    selection_id = content_id("selection", asked)
    chosen, weighed, warnings = choose(frame, settings)
    rows = _rows(store, name, selection_id, chosen, prompt)
    fresh = _is_fresh(store, name, selection_id, replace)
    with runs.begin(store, "select", {**asked, "selection_id": selection_id}, []) as run:
        run.versions = versions
        store.write("groups", derived.groups())
        store.write("influence", derived.influence())
        if fresh:
            store.delete("selections", _named(name))
            store.write("selections", rows)
        counts = _counts(rows)
        run.finish(counts, ["selections", "groups", "influence"])
    return Selected(name, counts, weighed.temperature, weighed.effective_size, warnings)


@dataclass
class _Derived:
    """Rows of groups and influence, held until the selection is known to be possible."""

    ids: dict[str, str] = field(default_factory=dict)
    group_rows: list[dict[str, Any]] = field(default_factory=list)
    influence_rows: list[dict[str, Any]] = field(default_factory=list)

    def groups(self) -> pa.Table:
        return pa.Table.from_pylist(self.group_rows, schema=TABLES["groups"].schema)

    def influence(self) -> pa.Table:
        return pa.Table.from_pylist(self.influence_rows, schema=TABLES["influence"].schema)


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


def _with_influence(
    store: GradientStore,
    frame: pl.DataFrame,
    settings: Settings,
    recipe_id: str,
    weights: Mapping[str, float],
    probe: Mapping[str, str],
    derived: _Derived,
    progress: Progress,
) -> pl.DataFrame:
    """Add i_ref and i_over, note missing gradients as problems, and collect rows of groups and influence."""
    frame = _note_gradients(store, frame, recipe_id, list(weights), settings)
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
    for side, ids in members.items():
        text = json.dumps({"name": side, **definition}, sort_keys=True)
        derived.ids[side] = group_id(text, ids)
        derived.group_rows += _group_rows(derived.ids[side], side, ids, text)
    derived.influence_rows += _influence_rows(scores, derived.ids, recipe_id, weights)
    renamed = scores.rename({UNKNOWN: "i_ref", KNOWN: "i_over"})
    return frame.join(renamed, on="sample_id", how="left", maintain_order="left")


def _note_gradients(
    store: GradientStore, frame: pl.DataFrame, recipe_id: str, checkpoints: list[str], settings: Settings
) -> pl.DataFrame:
    """Note what makes a sample unusable: it needs an ok refusal gradient at every checkpoint, since all are scored by
    it; a known one also an ok answer gradient, since that is the row that is trained on."""
    rows = store.scan(f"gradients_{recipe_id}").filter(pl.col("checkpoint_id").is_in(checkpoints))
    found = rows.select("sample_id", "response", "status").collect()
    is_known = split(pl.col("correctness"), settings.threshold, settings.boundary) == KNOWN
    for response, needed in (("refusal", pl.lit(True)), ("answer", is_known)):
        side = found.filter(pl.col("response") == response).group_by("sample_id")
        status = side.agg(
            bad=pl.col("status").filter(pl.col("status") != "ok").min(), good=(pl.col("status") == "ok").sum()
        )
        gradient = (
            pl.when(pl.col("bad").is_not_null())
            .then(pl.lit("gradient-") + pl.col("bad"))
            .when(pl.col("good").fill_null(0) < len(checkpoints))
            .then(pl.lit("no-gradient"))
        )
        problem = pl.coalesce("problem", pl.when(needed.fill_null(False)).then(gradient))
        frame = frame.join(status, on="sample_id", how="left").with_columns(problem=problem).drop("bad", "good")
    return frame.sort("sample_id")


def _group_rows(identity: str, name: str, members: list[str], definition: str) -> list[dict[str, Any]]:
    return [
        {"row_id": row_id(identity, i), "group_id": identity, "sample_id": i, "name": name, "definition": definition}
        for i in members
    ]


def _influence_rows(
    scores: pl.DataFrame, groups: Mapping[str, str], recipe_id: str, weights: Mapping[str, float]
) -> list[dict[str, Any]]:
    checkpoints = json.dumps(dict(weights), sort_keys=True)
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


def _is_fresh(store: GradientStore, name: str, selection_id: str, replace: bool) -> bool:
    """Whether the selection has to be written. Raises StoreError where the name holds another one."""
    present = store.scan("selections").filter(pl.col("selection") == name).select("selection_id").unique().collect()
    finished = store.scan("runs").filter(pl.col("stage") == "select", pl.col("status") == "finished")
    whole = finished.filter(pl.col("settings").str.contains(selection_id, literal=True)).collect().height > 0
    if set(present["selection_id"]) == {selection_id}:
        return not whole  # a killed run may have written a part
    if present.height and not replace:
        raise StoreError(
            f"a selection {name!r} with other settings or from other data is stored: "
            "choose another --name, or overwrite it with --replace"
        )
    return True


def _counts(rows: pa.Table) -> dict[str, int]:
    reasons = Counter(rows["reason"].to_pylist())
    responses = Counter(rows["response"].to_pylist())
    return {**dict(sorted(reasons.items())), "keep their answer": responses["answer"], "refuse": responses["refusal"]}


def _named(name: str) -> str:
    return "selection = '" + name.replace("'", "''") + "'"
