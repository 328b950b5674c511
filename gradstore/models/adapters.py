"""LoRA adapters: make one, load one, and name its parameters as the saved adapter does."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.dora import DoraLinearLayer
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


def randomise(parameters: Mapping[str, nn.Parameter], seed: int, std: float = 0.02) -> None:
    """Draw A and B from ``seed``, so that no gradient is zero because B is: for tests of arithmetic, not for use."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in parameters.items():
        if ".lora_A." in name or ".lora_B." in name:
            drawn = torch.randn(parameter.shape, generator=generator) * std
            parameter.data = drawn.to(parameter.device, parameter.dtype)


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


@dataclass(frozen=True)
class Site:
    """A module with parameters of its own that the adapter trains. ``names``: its attribute → the name as saved.

    ``layer`` is the LoRA layer around a lora_A: its input is the same numbers, in the base model's narrower type,
    and one tensor for query, key and value alike. ``probed``: DoRA also sends an identity matrix through the module,
    to learn a norm whose gradient it drops.
    """

    module: nn.Module
    names: dict[str, str]
    layer: nn.Module | None = None
    probed: bool = False


def trained_sites(model: PeftModel) -> list[Site]:
    """Where every trained parameter of the adapter sits, in the order of modules.

    Raises ModelError for what has no per-sample gradient here: parameters that are no module's own (LoRA on
    embeddings, trainable tokens), and parameters that two modules share.
    """
    name_of = {id(p): n for n, p in adapter_parameters(model).items()}
    layers: list[Any] = [m for m in model.modules() if isinstance(m, LoraLayer) and ADAPTER in m.lora_A]
    around = {id(m.lora_A[ADAPTER]): m for m in layers if _sees_own_input(m)}
    dora = {id(side[ADAPTER]) for m in layers if _is_dora_layer(m) for side in (m.lora_A, m.lora_B)}
    found: list[Site] = []
    seen: dict[int, str] = {}
    for path, module in model.named_modules():
        own = {a: name_of[id(p)] for a, p in module._parameters.items() if p is not None and id(p) in name_of}
        for attribute, name in own.items():
            if isinstance(module, nn.ParameterDict):
                raise ModelError(
                    f"{name} is not part of a linear layer: LoRA on embeddings and trainable tokens are not read"
                )
            if (key := id(module._parameters[attribute])) in seen:
                raise ModelError(
                    f"{name} is shared by {seen[key]} and {path}: untie them, or leave them out of the adapter"
                )
            seen[key] = path
        if own:
            found.append(Site(module, own, around.get(id(module)), id(module) in dora))
    if len(seen) != len(name_of) or not found:
        lost = sorted(n for i, n in name_of.items() if i not in seen)
        raise ModelError(f"this adapter trains nothing that is read here: {lost or 'it has no parameters'}")
    return found


def changes_base(model: PeftModel) -> bool:
    """Whether taking this adapter off leaves another base model behind: trained copies and biases stay in place, and
    initialisations like PiSSA's have taken their part out of the weights."""
    config: Any = model.peft_config[ADAPTER]
    start = config.init_lora_weights
    return bool(config.modules_to_save) or config.bias != "none" or (isinstance(start, str) and start != "gaussian")


def adapter_parameters(model: PeftModel) -> dict[str, nn.Parameter]:
    """What training the adapter would change, in the order of ``named_parameters``; names as peft saves them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about embeddings, which are asked for below
        saved = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    name_at = {(t.data_ptr(), t.shape): n for n, t in saved.items()}
    return {
        name: p for p in model.parameters() if (name := name_at.get((p.data_ptr(), p.shape))) is not None and p.numel()
    }


def is_dora(module: nn.Module) -> bool:
    """Whether this is the magnitude vector of a DoRA layer."""
    return isinstance(module, DoraLinearLayer)


def _sees_own_input(layer: Any) -> bool:
    """Whether lora_A is given the layer's own input, cast to its type: so in plain LoRA and in DoRA."""
    return ADAPTER not in getattr(layer, "lora_variant", {}) or _is_dora_layer(layer)


def _is_dora_layer(layer: Any) -> bool:
    return bool(getattr(layer, "use_dora", {}).get(ADAPTER))


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
