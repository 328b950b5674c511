"""The commands that make a store again, written from what its runs were asked."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

Run = Mapping[str, Any]
# setting → option; what a run holds besides these is a result, or follows from them
MODEL = {
    "model": "--model",
    "device": "--device",
    "dtype": "--dtype",
    "attention": "--attn",
    "revision": "--revision",
    "max_length": "--max-length",
    "batch_tokens": "--batch-tokens",
    "load_in_4bit": "--load-in-4bit",
    "tf32": "--tf32",
}
SHARD = {"shard": "--shard"}
OPTIONS: dict[str, dict[str, str]] = {
    "ingest": {"preset": "--preset", "role": "--role", "split": "--split", "limit": "--limit", "fields": "--field"},
    "probe": {
        **MODEL,
        "import": "--import",
        "template": "--template",
        "shots": "--shots",
        "n_samples": "--samples",
        "temperature": "--temperature",
        "max_new_tokens": "--max-new-tokens",
        "seed": "--seed",
        "certainty": "--certainty",
        "embedder": "--embedder",
        "role": "--role",
        "checkpoint": "--checkpoint",
        **SHARD,
    },
    "warmup": {
        "model": "--model",
        "out": "--out",
        "max_length": "--max-length",
        "rehearsal": "--rehearsal",
        "probe_id": "--probe",
        "epochs": "--epochs",
        "learning_rate": "--lr",
        "batch_size": "--batch-size",
        "r": "--lora-r",
        "targets": "--targets",
        "seed": "--seed",
    },
    "register": {"model": "--model"},
    "extract": {
        **MODEL,
        "checkpoint": "--checkpoint",
        "feature": "--feature",
        "loss": "--loss",
        "sketch_kind": "--sketch",
        "dim": "--dim",
        "seed": "--sketch-seed",
        "sparsity": "--sparsity",
        **SHARD,
    },
    "select": {
        "name": "--name",
        "method": "--method",
        "known": "--known",
        "unknown": "--unknown",
        "known_rule": "--known-rule",
        "unknown_rule": "--unknown-rule",
        "threshold": "--threshold",
        "boundary": "--boundary",
        "seed": "--seed",
        "weights": "--weights",
        "temperature": "--temperature",
        "ess": "--ess",
        "weight_total": "--weight-total",
        "cap": "--cap",
        "penalty": "--penalty",
        "quota": "--quota",
        "refusals": "--refusals",
        "target": "--target",
        "reference": "--reference",
        "strict": "--strict",
        "probe_id": "--probe",
        "recipe_id": "--recipe",
        "checkpoints": "--checkpoint",
    },
    "export": {"to": "--to", "out": "--out"},
}
NONE_MEANS = {"batch_tokens": "auto"}


def commands(
    store: str, runs: Iterable[Run], selection: str | None, checkpoints: Mapping[str, str], probes: Mapping[str, str]
) -> list[str]:
    """One command a finished run that leads to ``selection`` (None: to any), in the order of ``runs``, no line twice.

    ``checkpoints``: checkpoint_id → its folder's name; ``probes``: probe_id → checkpoint_id, of probes after rehearsal.
    What a store does not know is a word in capitals: MODEL, WARMUP (a folder of checkpoints), OUT.
    """
    lines: dict[str, None] = {}
    model = "MODEL"
    for run in runs:
        stage, given = run["stage"], dict(run["settings"])
        if run["status"] != "finished" or stage not in OPTIONS:
            continue
        if selection is not None and given.get("name" if stage == "select" else "selection", selection) != selection:
            continue
        model = given.setdefault("model", model)
        arguments = _arguments(stage, given, checkpoints, probes)
        lines[shlex.join(["gradstore", stage, store, *arguments])] = None
    return list(lines)


def _arguments(
    stage: str, given: dict[str, Any], checkpoints: Mapping[str, str], probes: Mapping[str, str]
) -> list[str]:
    def folder(checkpoint_id: str) -> str:
        return f"WARMUP/{checkpoints.get(checkpoint_id, checkpoint_id)}"

    first: list[str] = []
    if stage == "ingest":
        first = list(given["files"])
    elif stage == "register":
        first = [folder(given["checkpoint_id"])]
    elif stage == "export":
        first, given["out"] = [given["selection"]], "OUT"
    elif stage == "warmup":
        given |= {"out": "WARMUP", "rehearsal": len(given["rehearsal"])}
    elif stage == "extract":
        given["checkpoint"] = [folder(c) for c in given["checkpoints"]]
        first = [] if given.get("share_prompts", True) else ["--no-share-prompts"]
    elif stage == "probe":
        given["checkpoint"] = [folder(probes[p]) for p in [str(given.get("probe_id"))] if p in probes]
        if given.get("certainty") != "cosine":
            given["embedder"] = None
    if given.get("shard") == "0/1":
        given["shard"] = None
    return first + [
        text for name, option in OPTIONS[stage].items() if name in given for text in _option(option, name, given[name])
    ]


def _option(option: str, name: str, value: Any) -> list[str]:
    """An option as words; nothing for null and false, an option an item for lists and mappings."""
    if value is None and name in NONE_MEANS:
        return [option, NONE_MEANS[name]]
    if value is None or value is False:
        return []
    if value is True:
        return [option]
    if name == "fields":
        return [word for k, v in value.items() for word in (option, f"{k}={v}")]
    if name == "targets" and isinstance(value, list):
        return [option, ",".join(value)]
    if isinstance(value, list | dict):
        return [word for item in value for word in (option, str(item))]
    return [option, str(value)]
