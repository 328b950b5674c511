"""Which samples push one question towards refusing, and which against; and why a selection has it, or not.

Training on sample j with response r_j moves the loss of refusing question s by −η·<g_j, g_s> to first order (TracIn,
Pruthi et al. 2020, arXiv 2002.08484, eq. 1), g_s the gradient of refusing s. So the *push* of j towards refusing s is
the cosine Σ_c η_c <u_j^c(r_j), u_s^c(refusal)>, times j's weight where a selection gives one. Unlike I_ref and I_over,
which compare refusals with refusals, known samples push here by the answer that they would be trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from gradstore.errors import SelectionError, StoreError
from gradstore.kernels.half import dot
from gradstore.pipelines.export import read_selection, settings_of
from gradstore.pipelines.sources import Sources, measured
from gradstore.pipelines.work import initial_probe
from gradstore.selection import KNOWN, UNKNOWN, split
from gradstore.store import GradientStore, find_sample

RESPONSE = {KNOWN: "answer", UNKNOWN: "refusal"}
SAMPLE = ["question", "answer", "subject", "task", "role", "choices", "exposure"]
PROBE = ["correctness", "certainty", "entropy", "generations", "verdicts"]


@dataclass(frozen=True)
class Sides:
    """What divides known from unknown: a probe, a threshold, and the side of the threshold itself."""

    probe_id: str
    threshold: float = 0.5
    boundary: str = KNOWN

    @property
    def column(self) -> pl.Expr:
        return split(pl.col("correctness"), self.threshold, self.boundary)


@dataclass(frozen=True)
class Gradient:
    """The refusal gradient of one question: recipe, η and unit vector (dim,) float64 of each checkpoint."""

    recipe_id: str
    weights: Mapping[str, float]
    vectors: Mapping[str, np.ndarray]


def explain(
    store: GradientStore,
    sample_id: str,
    selection: str | None = None,
    count: int = 10,
    sources: Sources | None = None,
) -> dict[str, Any]:
    """The ``count`` strongest pushes either way on a stored sample, named by its id or the beginning of one.

    With ``selection``, of the rows that it trains on, and its own row in it; else of every training sample, known ones
    by their answer and unknown ones by refusing. Raises StoreError where there is no such sample (near ones are
    named), or no usable gradient of it.
    """
    identity = find_sample(store, sample_id)
    made = {} if selection is None else settings_of(store, read_selection(store, selection)["selection_id"][0])
    sources, sides, model_id = meant(store, sources or Sources(), made)
    recipe, weights = measured(store, sources, model_id)
    gradient = Gradient(recipe["recipe_id"], weights, _stored(store, recipe["recipe_id"], weights, identity))
    found = explain_gradient(store, gradient, sides, selection, count, but=identity)
    chosen = None if selection is None else _in_selection(store, selection, identity, made)
    return {"sample": _sample(store, identity, sides), **found, "selection": chosen}


def meant(store: GradientStore, sources: Sources, made: Mapping[str, Any]) -> tuple[Sources, Sides, str]:
    """What is to be read where nothing is said: what the selection (its settings ``made``) was made from."""
    probe = initial_probe(store, sources.probe or made.get("probe_id"))
    checkpoints = sources.checkpoints or tuple(made.get("checkpoints") or ())
    sides = Sides(probe["probe_id"], made.get("threshold", 0.5), (made.get("triple") or {}).get("boundary", KNOWN))
    return Sources(sides.probe_id, sources.recipe or made.get("recipe_id"), checkpoints), sides, probe["model_id"]


def explain_gradient(
    store: GradientStore,
    gradient: Gradient,
    sides: Sides,
    selection: str | None = None,
    count: int = 10,
    but: str | None = None,
) -> dict[str, Any]:
    """Who pushes a question with this refusal gradient, wherever it came from; the sample ``but`` is left out."""
    trained = trained_rows(store, sides, selection).filter(pl.col("sample_id") != (but or ""))
    if trained.height == 0:
        raise SelectionError("nothing to compare with: no training sample is known or unknown; probe the model first")
    cosines = _cosines(store, gradient)
    rows = trained.join(cosines, on=["sample_id", "response"], how="inner").with_columns(
        push=pl.col("similarity") * pl.col("weight")
    )
    groups = trained_rows(store, sides, None).select("sample_id", "knowledge")
    means = cosines.filter(pl.col("response") == "refusal").join(groups, on="sample_id")
    ordered = rows.sort(["push", "sample_id"], descending=[True, False])
    against = rows.filter(pl.col("push") < 0).sort("push", "sample_id")
    return {
        "influence": dict(means.group_by("knowledge").agg(pl.col("similarity").mean()).sort("knowledge").iter_rows()),
        "sides": dict(rows.group_by("knowledge").agg(pl.len()).sort("knowledge").iter_rows()),
        "net": float(rows["push"].sum()) / float(rows["weight"].sum()) if rows.height else None,
        "towards": ordered.filter(pl.col("push") > 0).head(count).to_dicts(),
        "against": against.head(count).to_dicts(),
        "recipe_id": gradient.recipe_id,
        "checkpoints": dict(gradient.weights),
    }


def trained_rows(store: GradientStore, sides: Sides, selection: str | None) -> pl.DataFrame:
    """What would be trained on: sample_id, question, answer, knowledge, response, weight."""
    texts = store.scan("samples").select("sample_id", "question", "answer", "role")
    if selection is not None:
        rows = read_selection(store, selection).select("sample_id", "knowledge", "response", "weight")
    else:
        probed = store.scan("probes").filter(pl.col("probe_id") == sides.probe_id, pl.col("status") == "ok")
        rows = probed.select("sample_id", knowledge=sides.column).drop_nulls().collect()
        rows = rows.with_columns(response=pl.col("knowledge").replace_strict(RESPONSE), weight=pl.lit(1.0))
    frame = rows.lazy().join(texts, on="sample_id").filter(pl.col("role") == "train")
    return (
        frame.select("sample_id", "question", "answer", "knowledge", "response", "weight").sort("sample_id").collect()
    )


def _stored(store: GradientStore, recipe_id: str, weights: Mapping[str, float], identity: str) -> dict[str, np.ndarray]:
    """The sample's refusal vector at each checkpoint."""
    where = f"sample_id = '{identity}' AND response = 'refusal'"
    vectors = {}
    for batch, block in store.blocks(recipe_id, where=where, columns=["checkpoint_id"]):
        for name, row in zip(batch["checkpoint_id"].to_pylist(), block, strict=True):
            vectors[name] = row.view(np.float16).astype(np.float64)
    if missing := [c for c in weights if c not in vectors]:
        raise StoreError(
            f"sample {identity} has no usable refusal gradient at checkpoint {missing[0]} under recipe {recipe_id}: "
            "only training samples are extracted; ask for others with --model, --checkpoint and --question"
        )
    return {c: vectors[c] for c in weights}


def _cosines(store: GradientStore, gradient: Gradient) -> pl.DataFrame:
    """sample_id, response, similarity of every row with gradients at all checkpoints: one streamed pass each."""
    parts = []
    for checkpoint, weight in gradient.weights.items():
        target = gradient.vectors[checkpoint][None] * weight
        stream = store.blocks(gradient.recipe_id, where=f"checkpoint_id = '{checkpoint}'", columns=["response"])
        for batch, block in stream:
            keys = {name: pl.Series(batch[name]) for name in ("sample_id", "response")}
            parts.append(pl.DataFrame({**keys, "similarity": dot(block, target)[:, 0]}))
    whole = pl.concat(parts).group_by("sample_id", "response").agg(pl.len().alias("n"), pl.col("similarity").sum())
    return whole.filter(pl.col("n") == len(gradient.weights)).drop("n")


def _sample(store: GradientStore, identity: str, sides: Sides) -> dict[str, Any]:
    sample = store.scan("samples").filter(pl.col("sample_id") == identity).select("sample_id", *SAMPLE).collect()
    of_it = (pl.col("sample_id") == identity) & (pl.col("probe_id") == sides.probe_id)
    probed = store.scan("probes").filter(of_it).select(PROBE).collect()
    answers = probed.row(0, named=True) if probed.height else dict.fromkeys(PROBE)
    known = probed.select(sides.column).to_series()
    return {**sample.row(0, named=True), **answers, "knowledge": known[0] if probed.height else None}


def _in_selection(store: GradientStore, name: str, identity: str, made: Mapping[str, Any]) -> dict[str, Any]:
    """The sample's own row: why it is in or out, at which weight, and who would take its place or has it."""
    rows = store.scan("selections").filter(pl.col("selection") == name).collect()
    own = rows.filter(pl.col("sample_id") == identity)
    method = {k: made.get(k) for k in ("method", "known", "unknown", "threshold", "weights", "seed")}
    if own.height == 0:
        return {
            "name": name,
            "reason": "not a candidate: it came later, or is not a training sample",
            "settings": method,
        }
    row = own.row(0, named=True)
    side = rows.filter(pl.col("knowledge") == row["knowledge"], pl.col("sample_id") != identity)
    kept = ("response", "target_text", "knowledge", "rank", "score", "weight", "reason", "i_ref", "i_over")
    found = {"name": name, **{k: row[k] for k in kept}, "settings": method}
    rule = (made.get("triple") or {}).get(row["knowledge"])
    if rule is None or rule == "random":  # a draw has no last and no next
        return found
    if row["rank"] is None:  # the last that was taken stands where it would
        other = side.filter(pl.col("rank").is_not_null()).sort("rank").tail(1)
        return {**found, "displaced_by": _brief(store, other)}
    return {**found, "displaces": _brief(store, _next(side, rule))}


def _next(side: pl.DataFrame, rule: str) -> pl.DataFrame:
    """The first that was left out of a side, if its rule ranks all of it: a draw or a greedy rule has no such order."""
    left = side.filter(pl.col("reason") == "outranked")
    by = "i_ref" if rule == "i-ref" else "score"
    return left.drop_nulls(by).sort([by, "sample_id"], descending=[True, False]).head(1)


def _brief(store: GradientStore, rows: pl.DataFrame) -> dict[str, Any] | None:
    """One selection row in a few words; None where there is none."""
    if rows.height == 0:
        return None
    row = rows.row(0, named=True)
    asked = store.scan("samples").filter(pl.col("sample_id") == row["sample_id"]).select("question").collect().item()
    return {"sample_id": row["sample_id"], "question": asked, "rank": row["rank"], "score": row["score"]}
