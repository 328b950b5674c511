"""Probes and gradients → ``groups``, ``influence``, ``selections``. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from gradstore import runs
from gradstore.errors import StoreError
from gradstore.identity import content_id, row_id, seeded_order
from gradstore.judging import UNKNOWN_TEXTS
from gradstore.pipelines import Progress, silent
from gradstore.pipelines.candidates import StoredVectors, candidates, note_gradients, with_flow
from gradstore.pipelines.scores import Derived, Gradients, siblings, with_each_influence, with_influence, with_target
from gradstore.pipelines.sources import Sources, measured, read_prompt, refuse_prompt
from gradstore.pipelines.work import initial_probe, read_samples
from gradstore.prompts import SURE, UNSURE
from gradstore.schemas import TABLES
from gradstore.selection import KNOWN, Method, Selection, Settings, method_of, needs_of
from gradstore.selection import select as choose
from gradstore.store import GradientStore

GRADIENT_NEEDS = {"influence", "vectors", "target"}


@dataclass(frozen=True)
class Selected:
    """What a selection came to. ``method``: the triple that was used; sizes and temperature are of the weights."""

    name: str
    method: Method
    counts: dict[str, int]
    temperature: float | None
    effective_size: float
    effective_size_known: float
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
    """Compute what the method's rules need, choose, weigh, and write.

    A name that holds a selection with other settings or from other data is an error, unless ``replace``.
    """
    sources, method = sources or Sources(), method_of(settings)
    versions = store.versions()
    probe = initial_probe(store, sources.probe)
    derived = Derived()
    frame, used, prompt, vectors = _measured(store, settings, method, sources, probe, derived, progress)
    # The candidates are part of what a selection is made from: with more data the same settings are another one.
    used |= {"groups": derived.ids, "candidates": content_id("candidates", {"rows": frame.write_json()})}
    asked = {"name": name, **asdict(settings), "triple": asdict(method), **used, "prompt_id": prompt["prompt_id"]}
    selection_id = content_id("selection", asked)
    selection = choose(frame, settings, vectors)
    rows = _rows(store, name, selection_id, selection, method, prompt)
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
    sizes = (selection.unknown.effective_size, selection.known.effective_size)
    return Selected(name, method, counts, selection.unknown.temperature, *sizes, selection.warnings)


def _measured(
    store: GradientStore,
    settings: Settings,
    method: Method,
    sources: Sources,
    probe: Mapping[str, str],
    derived: Derived,
    progress: Progress,
) -> tuple[pl.DataFrame, dict[str, Any], dict[str, Any], StoredVectors | None]:
    """The candidates with all that the method's rules and weights need; what was read; prompt; gradients to ask for."""
    frame = candidates(store, probe["probe_id"], settings)
    used: dict[str, Any] = {"probe_id": probe["probe_id"]}
    needs = needs_of(method) | ({"vectors"} if settings.clusters else set())
    if "flow" in needs:
        frame = with_flow(store, frame, probe, settings, sources.checkpoints)
    if not needs & GRADIENT_NEEDS:
        return frame, used, refuse_prompt(store, probe["prompt_id"]), None
    recipe, weights = measured(store, sources, probe["model_id"])
    gradients = Gradients(store, recipe, weights, siblings(store, recipe, weights, differ_in="sketch_seed"))
    used |= {"recipe_id": recipe["recipe_id"], "checkpoints": weights}
    frame = note_gradients(store, frame, recipe["recipe_id"], list(weights), settings)
    frame = with_influence(frame, gradients, settings, probe["probe_id"], derived, progress)
    if "stable" in (method.known, method.unknown):
        frame = with_each_influence(frame, gradients, settings)
        used["siblings"] = gradients.siblings
    if "target" in needs:
        plain = next(iter(siblings(store, recipe, weights, differ_in="feature", value="sgd")), None)
        frame = with_target(store, frame, gradients, plain, settings)
        used["target_recipe"] = plain or recipe["recipe_id"]
    usable = frozenset(frame.filter(pl.col("problem").is_null())["sample_id"])
    vectors = StoredVectors(store, recipe["recipe_id"], weights, usable)
    return frame, used, read_prompt(store, pl.col("prompt_id") == recipe["prompt_id"]), vectors


def _rows(
    store: GradientStore,
    name: str,
    selection_id: str,
    selection: Selection,
    method: Method,
    prompt: Mapping[str, Any],
) -> pa.Table:
    samples = read_samples(store, "train")
    kept = ("sample_id", "response", "knowledge", "rank", "score", "i_ref", "i_over", "reason", "weight")
    rows = [
        {
            "row_id": row_id(name, r["sample_id"]),
            "selection": name,
            "selection_id": selection_id,
            "prompt_id": prompt["prompt_id"],
            "target_text": _says(method, r, samples[r["sample_id"]]["answer"], prompt["refusal_text"]),
            **{k: r[k] for k in kept},
        }
        for r in selection.rows.iter_rows(named=True)
    ]
    return pa.Table.from_pylist(rows, schema=TABLES["selections"].schema)


def _says(method: Method, row: Mapping[str, Any], answer: str, refusal: str) -> str | None:
    """What the model is to say to one sample; None where it was not chosen."""
    if row["response"] is None:
        return None
    if method.says == "unsure":  # R-Tuning: the answer is kept on both sides
        return f"{answer}. {SURE if row['side'] == KNOWN else UNSURE}"
    if row["response"] == "answer":
        return answer
    if method.says == "pool":
        return min(UNKNOWN_TEXTS, key=lambda text: seeded_order(0, row["sample_id"] + text))
    return refusal


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
