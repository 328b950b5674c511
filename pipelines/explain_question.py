"""Explain a question that is not in the store: its gradient is computed as the stored ones were, and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gradstore.errors import ProvenanceError, StoreError, mismatch
from gradstore.identity import sample_id
from gradstore.models.adapters import load_adapter
from gradstore.models.checkpoints import Checkpoint, epoch_folders, read_checkpoint
from gradstore.models.encoding import encode
from gradstore.models.extraction import Extractor, Item
from gradstore.models.loading import LoadedModel
from gradstore.pipelines import ModelOptions
from gradstore.pipelines.explain import Gradient, explain_gradient, meant
from gradstore.pipelines.export import read_selection, settings_of
from gradstore.pipelines.model import load
from gradstore.pipelines.recipes import ExtractSettings, recipe_row
from gradstore.pipelines.sources import Sources, measured, read_prompt
from gradstore.pipelines.work import SAMPLE_COLUMNS
from gradstore.prompts import Prompt, Sample, from_row
from gradstore.store import GradientStore


def explain_question(
    store: GradientStore,
    options: ModelOptions,
    checkpoints: Sequence[str | Path],
    question: str,
    choices: Sequence[str] | None = None,
    selection: str | None = None,
    count: int = 10,
    sources: Sources | None = None,
) -> dict[str, Any]:
    """As :func:`gradstore.pipelines.explain.explain`, of a new question.

    ``checkpoints``: folders of those whose gradients the store holds (a warm-up folder means its epochs). Raises
    ProvenanceError, with every difference, where model, checkpoints or settings are not those of the stored rows.
    """
    made = {} if selection is None else settings_of(store, read_selection(store, selection)["selection_id"][0])
    sources, sides, model_id = meant(store, sources or Sources(), made)
    recipe, weights = measured(store, sources, model_id)
    options = replace(options, attention=recipe["attention"], max_length=recipe["max_length"])
    loaded = load(options)
    prompt = _prompt(store, recipe["prompt_id"])
    settings = _settings(recipe, prompt.template.name)
    made = recipe_row(settings, prompt, recipe["max_length"], loaded)
    if made != recipe:
        way_out = "Run it as the stored gradients were made, by --dtype and --load-in-4bit"
        raise ProvenanceError(mismatch("this model and the stored recipe", recipe, made, way_out))
    found = {c.checkpoint_id: c for c in _read(checkpoints, loaded.model_id)}
    if missing := sorted(set(weights) - set(found)):
        raise ProvenanceError(
            f"the stored gradients are of checkpoint {missing[0]}, which is not among the {len(found)} given: "
            "pass its folder with --checkpoint"
        )
    options_of = list(choices) if choices else None
    task = "mcqa" if options_of else "oeqa"
    identity = sample_id(task, question, options_of)
    asked: dict[str, Any] = dict.fromkeys(SAMPLE_COLUMNS)
    asked |= {"sample_id": identity, "task": task, "question": question, "choices": options_of}
    vectors = {c: _vector(loaded, found[c], settings, prompt, asked, recipe["max_length"]) for c in weights}
    gradient = Gradient(recipe["recipe_id"], weights, vectors)
    pushes = explain_gradient(store, gradient, sides, selection, count, but=identity)
    return {"sample": {k: asked[k] for k in ("sample_id", "question", "choices")}, **pushes, "selection": None}


def _prompt(store: GradientStore, prompt_id: str) -> Prompt:
    stored = read_prompt(store, pl.col("prompt_id") == prompt_id)
    demos = store.scan("samples").filter(pl.col("sample_id").is_in(stored["demos"])).select(SAMPLE_COLUMNS)
    return from_row(stored, list(demos.collect().iter_rows(named=True)))


def _settings(recipe: dict[str, Any], template: str) -> ExtractSettings:
    return ExtractSettings(
        feature=recipe["feature"],
        dim=recipe["sketch_dim"],
        seed=recipe["sketch_seed"],
        sparsity=recipe["sketch_sparsity"],
        template=template,
        sketch_kind=recipe["sketch_kind"],
        loss=recipe["loss_reduction"],
    )


def _read(given: Sequence[str | Path], model_id: str) -> list[Checkpoint]:
    folders = [f for folder in given for f in epoch_folders(folder) or [Path(folder)]]
    return [read_checkpoint(folder, model_id) for folder in folders]


def _vector(
    loaded: LoadedModel,
    checkpoint: Checkpoint,
    settings: ExtractSettings,
    prompt: Prompt,
    asked: Sample,
    max_length: int,
) -> np.ndarray:
    """The unit refusal gradient at one checkpoint, rounded to float16 as it would be stored: (dim,) float64."""
    adapted = load_adapter(loaded.model, checkpoint.folder)
    extractor = Extractor(
        loaded, adapted, checkpoint.moments, settings.feature, settings.sketch, reduction=settings.loss
    )
    try:
        reply = prompt.reply(asked, prompt.refusal_text)
        encoded = encode(loaded.tokenizer, prompt.ask(asked), reply, max_length)
        row = extractor.rows([Item(asked["sample_id"], "refusal", encoded)])
    finally:
        extractor.close()
        loaded.model = adapted.unload()
    if (status := row["status"][0].as_py()) != "ok":
        raise StoreError(f"the gradient of this question is {status} at {checkpoint.folder}: ask it otherwise")
    return np.array(row["vector"][0].as_py(), np.float64)
