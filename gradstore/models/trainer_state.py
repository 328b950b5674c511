"""Read the checkpoint of another trainer: its optimizer's state → Adam's moments by parameter name.

``optimizer.pt`` of Hugging Face's Trainer numbers parameters group by group: those with weight decay first, in the
order of the model's named parameters, then those without. ``optimizer.bin`` (FSDP, through accelerate) has names.
Moments of bitsandbytes' 8-bit Adam are widened. Every shape is compared with its parameter before it is believed.
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
from gradstore.models.adapters import adapter_parameters
from gradstore.models.checkpoints import Record

# Trainer.get_decay_parameter_names, transformers 5.23.
NO_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
OPTIMIZERS, STATE = ("optimizer.pt", "optimizer.bin"), "trainer_state.json"
QUANTISED = "__bnb_optimizer_quant_state__"  # where bitsandbytes keeps what FSDP must not touch
WRAPPERS = ("_fsdp_wrapped_module.", "_orig_mod.", "_checkpoint_wrapped_module.")


def read_trainer_checkpoint(
    folder: Path, model: PeftModel, model_id: str, learning_rate: float | None = None
) -> tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], Record]:
    """Moments by name and the record of a Trainer checkpoint of ``model``'s adapter.

    The learning rate is the mean over the last epoch's log of ``trainer_state.json`` unless one is given.
    Raises CheckpointError where a file is missing, or where indices or shapes do not match the adapter.
    """
    path = next((folder / name for name in OPTIMIZERS if (folder / name).exists()), None)
    if path is None:
        raise CheckpointError(
            f"{folder} holds no {' and no '.join(OPTIMIZERS)}: expected a checkpoint folder of Hugging Face's Trainer"
        )
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here, and all mean the same to the user
        raise CheckpointError(f"{path} cannot be read safely: {str(error).splitlines()[0]}") from None
    if not isinstance(saved, dict) or not saved.get("param_groups") or not saved.get("state"):
        raise CheckpointError(f"{path} holds no optimizer state: expected `state` and `param_groups`")
    entries = _by_name(saved, model, path)
    moments = {n: _moments(entries.get(n, {}), n, p.shape, path) for n, p in adapter_parameters(model).items()}
    group = saved["param_groups"][0]
    state = json.loads((folder / STATE).read_text()) if (folder / STATE).exists() else {}
    rate = learning_rate if learning_rate is not None else _mean_rate(state, folder)
    step = int(next(iter(entries.values()))["step"])
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


def _by_name(saved: dict[str, Any], model: PeftModel, path: Path) -> dict[str, dict[str, Any]]:
    """Each parameter's entry of the optimizer's state, by its name as saved."""
    if any(isinstance(key, str) for key in saved["state"]):
        return _named(saved["state"], model, path)
    names = _trainer_order(model)
    indices = [i for group in saved["param_groups"] for i in group["params"]]
    if len(indices) != len(names):
        raise CheckpointError(
            f"{path} holds {len(indices)} parameters, this adapter trains {len(names)}: it belongs to another adapter, "
            "or part of the adapter was frozen, or more than the adapter was trained"
        )
    return {name: saved["state"].get(index, {}) for index, name in zip(indices, names, strict=True)}


def _named(state: dict[str, Any], model: PeftModel, path: Path) -> dict[str, dict[str, Any]]:
    saved_name = {id(p): n for n, p in adapter_parameters(model).items()}
    raw = {n: saved_name[id(p)] for n, p in model.named_parameters() if id(p) in saved_name}
    found = {}
    for key, entry in state.items():
        plain = key.removeprefix("module.")
        for wrapper in WRAPPERS:
            plain = plain.replace(wrapper, "")
        if plain in raw:
            found[raw[plain]] = entry
    if missing := sorted(set(raw.values()) - set(found)):
        raise CheckpointError(
            f"{path} lacks the moments of {len(missing)} of {len(raw)} adapter parameters, first {missing[0]}: it "
            "belongs to another adapter, or part of this one was frozen"
        )
    return found


def _trainer_order(model: PeftModel) -> list[str]:
    """Names (as saved) in the order of Trainer's optimizer indices."""
    decay = set(get_parameter_names(model, [nn.LayerNorm], NO_DECAY))
    name_of = {id(p): n for n, p in adapter_parameters(model).items()}
    trained = [(raw, name_of[id(p)]) for raw, p in model.named_parameters() if id(p) in name_of]
    return [n for raw, n in trained if raw in decay] + [n for raw, n in trained if raw not in decay]


def _moments(entry: dict[str, Any], name: str, shape: torch.Size, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    entry = entry | entry.get(QUANTISED, {})
    if "state1" in entry:
        m, v = (_widened(entry, k) for k in (1, 2))
    elif "exp_avg" in entry and "exp_avg_sq" in entry:
        m, v = entry["exp_avg"], entry["exp_avg_sq"]
    else:
        raise CheckpointError(f"{path} holds no Adam moments of {name}: was it frozen, or is this another optimizer?")
    if m.shape != shape or v.shape != shape:
        raise CheckpointError(
            f"{path}: what should be the moments of {name} has shape {tuple(m.shape)}, the parameter has "
            f"{tuple(shape)}: the optimizer state belongs to another adapter"
        )
    return m, v


def _widened(entry: dict[str, Any], k: int) -> torch.Tensor:
    """A moment of 8-bit Adam (Dettmers et al. 2022, arXiv 2110.02861 §2): a code's value times its block's largest."""
    codes = entry[f"state{k}"]
    if codes.dtype != torch.uint8:
        return codes  # parameters below 4096 elements stay in float32
    values, largest = entry[f"qmap{k}"][codes.reshape(-1).long()], entry[f"absmax{k}"]
    block = next(b for b in (64, 128, 256, 512, 1024, 2048, 4096) if -(-len(values) // b) == len(largest))
    return (values * largest.repeat_interleave(block)[: len(values)]).reshape(codes.shape)


def _mean_rate(state: dict[str, Any], folder: Path) -> float:
    logged = [(e["epoch"], e["learning_rate"]) for e in state.get("log_history", []) if "learning_rate" in e]
    if not logged:
        raise CheckpointError(f"{folder / STATE} holds no learning rate: give it with --learning-rate")
    last = logged[-1][0]
    rates = [rate for epoch, rate in logged if epoch > last - 1]
    return float(sum(rates) / len(rates))
