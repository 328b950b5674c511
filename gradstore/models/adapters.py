"""LoRA adapters: make one, load one, and name its parameters as the saved adapter does."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from torch import nn

from gradstore.errors import CheckpointError, ModelError

ADAPTER = "default"


def add_lora(model: Any, *, r: int, alpha: int, targets: str | Sequence[str], seed: int) -> PeftModel:
    """Wrap a model in a fresh LoRA on ``targets`` (``all-linear`` or module names), A drawn from ``seed``, B zero."""
    chosen: Any = targets if targets == "all-linear" or not isinstance(targets, str) else targets.split(",")
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=0.0, target_modules=chosen, task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise ModelError(f"no LoRA can be put on {targets!r}: {str(error).splitlines()[0]}") from None


def load_adapter(model: Any, folder: Path) -> PeftModel:
    """Put a saved adapter on its base model. Raises CheckpointError where it is missing or does not fit."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).exists():
            raise CheckpointError(f"{folder} holds no {name}: expected a folder saved by peft")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # _check_loaded refuses them
            adapted = PeftModel.from_pretrained(model, str(folder))
    except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"the adapter in {folder} does not fit this base model: {reason}") from None
    _check_loaded(adapted, folder)
    return adapted


def lora_linears(model: PeftModel) -> dict[str, nn.Linear]:
    """Every trained matrix of the adapter: parameter name (as saved) → the linear module that holds it.

    Raises ModelError for what is not a plain LoRA pair on a linear layer; its gradient would be wrong or missing.
    """
    found: dict[str, nn.Linear] = {}
    known: set[int] = set()
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        for side in ("lora_A", "lora_B"):
            if ADAPTER not in getattr(module, side):
                continue
            linear = getattr(module, side)[ADAPTER]
            if (
                not isinstance(linear, nn.Linear)
                or linear.bias is not None
                or getattr(module, "use_dora", {}).get(ADAPTER)
            ):
                raise ModelError(f"{name}.{side} is not a plain LoRA matrix (DoRA, a bias, or a convolution)")
            found[f"{name}.{side}.weight"] = linear
            known.add(id(linear.weight))
    others = [n for n, p in adapter_parameters(model).items() if id(p) not in known]
    if others or not found:
        raise ModelError(f"only LoRA on linear layers is read; besides it this adapter trains {others or 'nothing'}")
    return found


def adapter_parameters(model: PeftModel) -> dict[str, nn.Parameter]:
    """What training the adapter would change, in the order of ``named_parameters``; names as saved."""
    marks = ("lora_", "modules_to_save")
    return {
        name.replace(f".{ADAPTER}.", "."): p for name, p in model.named_parameters() if any(m in name for m in marks)
    }


def _check_loaded(model: PeftModel, folder: Path) -> None:
    """peft leaves a parameter at its fresh value when the file lacks it; here that is an error."""
    with safe_open(str(folder / "adapter_model.safetensors"), framework="pt") as file:
        saved = set(file.keys())
    expected = set(adapter_parameters(model))
    if saved != expected:
        missing, surplus = sorted(expected - saved)[:3], sorted(saved - expected)[:3]
        raise CheckpointError(
            f"the adapter in {folder} does not fit this base model: {len(expected - saved)} of its parameters are "
            f"not in the file {missing}, {len(saved - expected)} in the file have no place {surplus}"
        )
