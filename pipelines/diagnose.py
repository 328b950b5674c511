"""Conflicts in a selection, and what rehearsal did to knowledge: numbers that say why a selection may fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from gradstore.batching import plan_batches
from gradstore.conflicts import crss, nearest_kept
from gradstore.errors import StoreError
from gradstore.flow import knowledge_flow
from gradstore.pipelines import ModelOptions, Progress, silent
from gradstore.pipelines.candidates import StoredVectors, with_flow
from gradstore.pipelines.export import read_selection
from gradstore.pipelines.sources import Sources, measured
from gradstore.pipelines.work import initial_probe, knowledge, read_samples
from gradstore.selection import Settings
from gradstore.store import GradientStore

Rows = Callable[[list[str]], np.ndarray]


def conflicts(
    store: GradientStore,
    name: str,
    options: ModelOptions | None = None,
    sources: Sources | None = None,
    *,
    progress: Progress = silent,
) -> dict[str, Any]:
    """CRSS of the selection ``name``: of hidden states where a model is given (CRaFT), else of refusal gradients.

    Also the ten closest pairs: a refusal, the answer that is kept next to it, and their cosine.
    """
    chosen = read_selection(store, name)
    sides = {r: chosen.filter(pl.col("response") == r)["sample_id"].to_list() for r in ("refusal", "answer")}
    rows = _hidden(store, options, progress) if options else _gradients(store, sides, sources or Sources())
    refused, kept = rows(sides["refusal"]), rows(sides["answer"])
    nearest = nearest_kept(refused, kept)
    closest = np.argsort(-nearest, kind="stable")[:10]
    questions = dict(store.scan("samples").select("sample_id", "question").collect().iter_rows())
    pairs = []
    for i in closest.tolist():
        other = sides["answer"][int(_cosines(refused[i], kept).argmax())]
        ids = {"refusal": sides["refusal"][i], "answer": other}
        texts = {f"{side}_question": questions[s] for side, s in ids.items()}
        pairs.append({**ids, **texts, "cosine": round(float(nearest[i]), 6)})
    of = "hidden states" if options else "refusal gradients"
    shares = {f"{t:.2f}": share for t, share in crss(nearest).items()}
    return {"selection": name, "of": of, "crss": shares, "mean_nearest": float(nearest.mean()), "closest": pairs}


def flow(store: GradientStore, sources: Sources | None = None, threshold: float = 0.5) -> dict[str, Any]:
    """The knowledge-flow histogram of a store that was probed before and after rehearsal."""
    probe = initial_probe(store, (sources or Sources()).probe)
    frame = knowledge(store, probe["probe_id"]).filter(pl.col("probe_status") == "ok")
    checkpoints = (sources or Sources()).checkpoints
    both = with_flow(store, frame, probe, Settings(method="craft"), checkpoints).drop_nulls("flow")
    return knowledge_flow(both["correctness"], both["correctness"] + both["flow"], threshold)


def _cosines(row: np.ndarray, rows: np.ndarray) -> np.ndarray:
    rows, row = rows.astype(np.float64), row.astype(np.float64)
    return rows @ row / np.maximum(np.linalg.norm(rows, axis=1), 1e-30)


def _gradients(store: GradientStore, sides: dict[str, list[str]], sources: Sources) -> Rows:
    recipe, weights = measured(store, sources, initial_probe(store, sources.probe)["model_id"])
    ids = frozenset(i for side in sides.values() for i in side)
    stored = StoredVectors(store, recipe["recipe_id"], weights, ids, keep=False)
    return lambda wanted: stored(wanted, "refusal").view(np.float16)


def _hidden(store: GradientStore, options: ModelOptions, progress: Progress) -> Rows:
    """The question's hidden state under the prompt of the probe (torch is imported here, and only here)."""
    from gradstore.models.encoding import encode_prompt
    from gradstore.models.hidden import last_hidden
    from gradstore.pipelines.model import load, special_tokens
    from gradstore.pipelines.work import make_prompt

    loaded, samples = load(options), read_samples(store, "train")
    prompt = make_prompt(store, "basic", loaded.chat_template, special_tokens(loaded))

    def rows(wanted: list[str]) -> np.ndarray:
        """Hidden states (n, width) of these samples, in their order."""
        if missing := [i for i in wanted if i not in samples]:
            raise StoreError(f"{len(missing)} selected samples are not in the store, the first is {missing[0]}")
        ids = {i: encode_prompt(loaded.tokenizer, prompt.ask(samples[i])) for i in wanted}
        found: dict[str, np.ndarray] = {}
        for batch in plan_batches({i: len(t) for i, t in ids.items()}, options.tokens):
            found |= dict(zip(batch, last_hidden(loaded, [ids[i] for i in batch]), strict=True))
            progress("hidden states", len(found), len(wanted))
        return np.stack([found[i] for i in wanted])

    return rows
