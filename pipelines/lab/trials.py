"""One trial: a selection of one store, fine-tuned and asked at every strength; and the store that it is made from.

All methods of a (world, seed) share one store, one warm-up, one sketch, one budget and one total weight. A trial's
record is a JSON file with the verdict on every question, so that any number can be computed from it later.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from gradstore.evaluation import refusal_rates, shares, ths
from gradstore.judging import judge
from gradstore.models.finetuning import SFTSettings, fine_tune
from gradstore.models.loading import LoadedModel
from gradstore.pipelines import ModelOptions, Progress, silent
from gradstore.pipelines.build import default_extract, default_warmup
from gradstore.pipelines.candidates import StoredVectors
from gradstore.pipelines.evaluate import answers_with_confidence
from gradstore.pipelines.export import export
from gradstore.pipelines.extract import extract
from gradstore.pipelines.lab.worlds import World, fill, model_of
from gradstore.pipelines.model import load, special_tokens
from gradstore.pipelines.probe import ProbeSettings, probe
from gradstore.pipelines.select import select
from gradstore.pipelines.sources import Sources, measured
from gradstore.pipelines.warmup import warmup
from gradstore.pipelines.work import SAMPLE_COLUMNS, initial_probe, make_prompt
from gradstore.prompts import Prompt, Sample
from gradstore.selection import Settings, method_of, needs_of
from gradstore.selection.coverage import coverage
from gradstore.store import GradientStore

CODES = {"correct": "c", "wrong": "w", "refused": "r", "unparsed": "u"}  # a verdict in a trial's record
VERDICTS = {code: verdict for verdict, code in CODES.items()}
LOOKED_AT = ("validation", "test")
NOT_SELECTION = {"from", "sketch_seed", "dim"}  # keys of a variant that are no settings of a selection
DIM = 8192
BATCH_TOKENS = 16_384


@dataclass(frozen=True)
class Measured:
    """The store of a (world, seed), its model, and how gradients come into it: (feature, sketch seed, dim) → recipe."""

    store: GradientStore
    model: ModelOptions
    seed: int
    gradients: Callable[[str, int, int], str]


def measure(world: World, seed: int, folder: Path, progress: Progress = silent) -> Measured:
    """Questions, probe, warm-up, gradients, probe after rehearsal. Resumes."""
    model = model_of(world, seed, folder, progress)
    place = folder / "stores" / f"{world.name}-{seed}"
    store = GradientStore.create(place / "store")
    if not store.keys("samples"):
        fill(store, world, seed, model)
    asked = ProbeSettings(max_new_tokens=world.max_new_tokens, seed=seed)
    probe(store, model, asked, progress=progress)
    rehearsed = default_warmup(r=8, alpha=16, epochs=2, learning_rate=1e-3, seed=seed)
    epochs = warmup(store, model, place / "warmup", rehearsed, rehearsal=world.rehearsal, progress=progress)
    probe(store, model, asked, checkpoint=epochs[-1], progress=progress)

    def gradients(feature: str, sketch_seed: int, dim: int) -> str:
        how = default_extract(seed=sketch_seed, feature=feature, dim=dim)
        extract(store, replace(model, batch_tokens=4096), epochs[-1:], how, progress=progress)
        made = (pl.col("feature") == feature, pl.col("sketch_seed") == sketch_seed, pl.col("sketch_dim") == dim)
        return store.scan("recipes").filter(*made).select("recipe_id").collect().item()

    gradients("adam", seed, DIM)
    return Measured(store, model, seed, gradients)


def initial(store: GradientStore, world: World, model: ModelOptions) -> dict[str, Any]:
    """What the initial model says under both templates: split → verdict codes, in the order of sample ids."""
    loaded = load(model)
    asked = {name: _ask(store, loaded, name, world.max_new_tokens) for name in ("basic", "refuse")}
    return {"world": world.name, "verdicts": asked, "sample_ids": {s: sorted(_split(store, s)) for s in LOOKED_AT}}


def run_trial(
    made: Measured,
    world: World,
    name: str,
    variant: Mapping[str, Any],
    before: Mapping[str, str],
    folder: Path,
) -> dict[str, Any]:
    """Select, export, fine-tune, ask: the record of one variant on one seed.

    ``variant`` holds settings of the selection, and perhaps ``sketch_seed`` (added to the seed) and ``dim``: another
    look at the same gradients. ``before`` has the initial model's verdict codes by split. Weights of either side sum
    to its number of samples.
    """
    store, model, seed = made.store, made.model, made.seed
    settings = Settings(
        **{"known": world.known, "unknown": world.unknown, "seed": seed, "weight_total": float(world.unknown)}
        | {k: v for k, v in variant.items() if k not in NOT_SELECTION}
    )
    sketch = (seed + variant.get("sketch_seed", 0), variant.get("dim", DIM))
    sources = Sources(recipe=made.gradients("adam", *sketch))
    if "target" in needs_of(method_of(settings)):
        made.gradients("sgd", *sketch)  # LESS multiplies with plain gradients of the target
    started = time.monotonic()
    chosen = select(store, name, settings, sources, replace=True)
    selected = time.monotonic() - started
    files = export(store, name, "trl", folder / "exports" / name)
    with next(f for f in files if f.name == "train.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    shutil.rmtree(folder / "exports" / name)
    longer = 24 if chosen.method.says in ("unsure", "pool") else 0  # what these say is longer than the usual refusal
    looks: list[dict[str, Any]] = []
    for rate in world.learning_rates:
        tuning = SFTSettings(epochs=world.epochs, learning_rate=rate, seed=seed)
        tuned = fine_tune(load(model), [_row(r) for r in rows], tuning, folder / "sft.log")
        verdicts = _ask(store, tuned, "refuse", world.max_new_tokens + longer)
        found = {part: metrics(before[part], verdicts[part]) for part in LOOKED_AT}
        looks.append({"learning_rate": rate, "verdicts": verdicts, **found})
    return {
        "world": world.name,
        "seed": seed,
        "variant": name,
        "from": variant.get("from", "ours"),
        "settings": asdict(settings),
        "triple": asdict(chosen.method),
        "sft": {k: v for k, v in asdict(tuning).items() if k != "learning_rate"},
        "counts": chosen.counts,
        "effective_size": [chosen.effective_size_known, chosen.effective_size],
        "weight": sum(r["weight"] for r in rows),
        "picked": picked(store, name) | covered(store, name, sources),
        "looks": looks,
        "seconds": {"select": round(selected, 2), "all": round(time.monotonic() - started, 1)},
    }


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: row[k] for k in ("prompt", "completion", "weight")}


def picked(store: GradientStore, name: str) -> dict[str, Any]:
    """What was picked: ids of the unknown side in order of rank, and how often pretraining had shown each side."""
    rows = store.scan("selections").filter(pl.col("selection") == name, pl.col("rank").is_not_null())
    samples = store.scan("samples").select("sample_id", "exposure")
    frame = rows.join(samples, on="sample_id", how="left").sort("response", "rank").collect()
    unknown = frame.filter(pl.col("response") == "refusal")

    def shares_of(part: pl.DataFrame) -> dict[str, float]:
        return {e or "?": round(n / part.height, 4) for e, n in part["exposure"].value_counts(sort=True).iter_rows()}

    known = frame.filter(pl.col("response") == "answer")
    exposure = {side: shares_of(part) for side, part in (("known", known), ("unknown", unknown)) if part.height}
    return {"unknown": unknown["sample_id"].to_list(), "exposure": exposure}


def covered(store: GradientStore, name: str, sources: Sources) -> dict[str, Any]:
    """How the chosen refusals lie among all unknowns, by their gradients (:mod:`gradstore.selection.coverage`)."""
    rows = store.scan("selections").filter(pl.col("selection") == name).collect()
    usable = pl.col("reason").is_in(["selected", "outranked", "knowledge-did-not-fall"])
    group = rows.filter(pl.col("knowledge") == "unknown", usable)["sample_id"].to_list()
    chosen = rows.filter(pl.col("response") == "refusal")["sample_id"].to_list()
    if not group or not chosen:
        return {}
    recipe, weights = measured(store, sources, initial_probe(store)["model_id"])
    stored = StoredVectors(store, recipe["recipe_id"], weights, frozenset([*group, *chosen]))
    return coverage(stored(group, "refusal"), stored(chosen, "refusal"))


def metrics(before: str, after: str) -> dict[str, float | None]:
    """Shares, THS, over-refusal and hallucinations fixed, from two strings of verdict codes over the same questions."""
    first, second = ([VERDICTS[code] for code in text] for text in (before, after))
    start, end = shares(first), shares(second)
    over, fixed = refusal_rates(first, second)
    found = {k: round(v, 6) for k, v in end.as_dict().items()}
    return {**found, "ths": ths(end, start) if start.wrong else None, "over_refusal": over, "fixed": fixed}


def _split(store: GradientStore, name: str) -> dict[str, Sample]:
    frame = store.scan("samples").filter(pl.col("split") == name).select(SAMPLE_COLUMNS).collect()
    return {r["sample_id"]: r for r in frame.iter_rows(named=True)}


def _ask(store: GradientStore, loaded: LoadedModel, template: str, max_new_tokens: int) -> dict[str, str]:
    """Verdict codes on validation and test, in the order of sample ids."""
    prompt = make_prompt(store, template, loaded.chat_template, special_tokens(loaded))
    parts = {part: _split(store, part) for part in LOOKED_AT}
    verdicts = _verdicts(loaded, prompt, parts["validation"] | parts["test"], max_new_tokens)
    return {part: "".join(CODES[verdicts[i]] for i in sorted(samples)) for part, samples in parts.items()}


def _verdicts(
    loaded: LoadedModel, prompt: Prompt, samples: Mapping[str, Sample], max_new_tokens: int
) -> dict[str, str]:
    said = answers_with_confidence(loaded, prompt, samples, max_new_tokens, BATCH_TOKENS)
    return {i: judge(samples[i], text, [prompt.refusal_text]) for i, (text, _) in said.items()}
