"""Read the checkpoint of a Hugging Face Trainer: ``optimizer.pt`` by index → Adam's moments by parameter name.

Trainer numbers parameters group by group: those with weight decay first, in the order of the model's named
parameters, then those without. Every moment's shape is compared with its parameter before it is believed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers.trainer_pt_utils import get_parameter_names

from gradstore.errors import CheckpointError
from gradstore.models.adapters import ADAPTER, adapter_parameters
from gradstore.models.checkpoints import Record

# Trainer.get_decay_parameter_names, transformers 5.23.
NO_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
OPTIMIZER, STATE = "optimizer.pt", "trainer_state.json"


def read_trainer_checkpoint(
    folder: Path, model: PeftModel, model_id: str, learning_rate: float | None = None
) -> tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], Record]:
    """Moments by name and the record of a Trainer checkpoint of ``model``'s adapter.

    The learning rate is the mean over the last epoch's log of ``trainer_state.json`` unless one is given.
    Raises CheckpointError where a file is missing, or where indices or shapes do not match the adapter.
    """
    if not (folder / OPTIMIZER).exists():
        raise CheckpointError(f"{folder} holds no {OPTIMIZER}: expected a checkpoint folder of Hugging Face's Trainer")
    try:
        saved = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here, and all mean the same to the user
        raise CheckpointError(f"{folder / OPTIMIZER} cannot be read safely: {str(error).splitlines()[0]}") from None
    if not isinstance(saved, dict) or not saved.get("param_groups") or not saved.get("state"):
        raise CheckpointError(f"{folder / OPTIMIZER} holds no optimizer state: expected `state` and `param_groups`")
    names = _trainer_order(model)
    moments = _match(saved, names, dict(adapter_parameters(model)), folder)
    group = saved["param_groups"][0]
    state = json.loads((folder / STATE).read_text()) if (folder / STATE).exists() else {}
    rate = learning_rate if learning_rate is not None else _mean_rate(state, folder)
    step = int(next(iter(saved["state"].values()))["step"])
    record = Record(
        model_id=model_id,
        name=folder.name,
        step=step,
        epoch=round(state["epoch"]) if state.get("epoch") else None,
        learning_rate=rate,
        beta1=float(group["betas"][0]),
        beta2=float(group["betas"][1]),
        eps=float(group["eps"]),
    )
    return moments, record


def _trainer_order(model: PeftModel) -> list[str]:
    """Names (as saved) in the order of Trainer's optimizer indices."""
    decay = set(get_parameter_names(model, [nn.LayerNorm], NO_DECAY))
    trained = [n for n, _ in model.named_parameters() if n.replace(f".{ADAPTER}.", ".") in adapter_parameters(model)]
    ordered = [n for n in trained if n in decay] + [n for n in trained if n not in decay]
    return [n.replace(f".{ADAPTER}.", ".") for n in ordered]


def _match(
    saved: dict[str, Any], names: list[str], parameters: dict[str, nn.Parameter], folder: Path
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    indices = [i for group in saved["param_groups"] for i in group["params"]]
    if len(indices) != len(names):
        raise CheckpointError(
            f"{folder / OPTIMIZER} holds {len(indices)} parameters, this adapter trains {len(names)}: "
            "it belongs to another adapter, or more than the adapter was trained"
        )
    moments = {}
    for index, name in zip(indices, names, strict=True):
        entry = saved["state"].get(index, {})
        if "exp_avg" not in entry or "exp_avg_sq" not in entry:
            raise CheckpointError(f"{folder / OPTIMIZER} holds no Adam moments of {name} (index {index})")
        m, v = entry["exp_avg"], entry["exp_avg_sq"]
        if m.shape != parameters[name].shape or v.shape != parameters[name].shape:
            raise CheckpointError(
                f"{folder / OPTIMIZER}: index {index} has shape {tuple(m.shape)}, {name} has "
                f"{tuple(parameters[name].shape)}: the optimizer state belongs to another adapter"
            )
        moments[name] = (m, v)
    return moments


def _mean_rate(state: dict[str, Any], folder: Path) -> float:
    logged = [(e["epoch"], e["learning_rate"]) for e in state.get("log_history", []) if "learning_rate" in e]
    if not logged:
        raise CheckpointError(f"{folder / STATE} holds no learning rate: give it with --learning-rate")
    last = logged[-1][0]
    rates = [rate for epoch, rate in logged if epoch > last - 1]
    return float(sum(rates) / len(rates))
