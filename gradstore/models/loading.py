"""Load a causal language model and say exactly which one it is."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from gradstore.errors import MissingExtra, ModelError
from gradstore.identity import content_id

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
VOLATILE = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")
DIGEST_CACHE = ".gradstore-digests.json"


@dataclass
class LoadedModel:
    """A model ready to be asked, its tokenizer, and the settings that its outputs depend on."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    model_id: str
    device: torch.device
    dtype: str
    attention: str
    stop_tokens: list[int] = field(default_factory=list)

    @property
    def chat_template(self) -> str | None:
        return self.tokenizer.chat_template

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)


def load_model(
    path: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    attention: str = "sdpa",
    revision: str | None = None,
    four_bit: bool = False,
    tf32: bool = False,
) -> LoadedModel:
    """Load a folder or a hub id, frozen and in evaluation mode. ``auto``: CUDA and bfloat16 where there is CUDA,
    else CPU and float32. ``four_bit``: the weights as nf4 with double quantisation (QLoRA, arXiv 2305.14314 §3),
    computed with in ``dtype``. ``tf32``: on CUDA, float32 products may lose 13 bits; off unless asked for. Both are
    part of the dtype that recipes record. Raises ModelError where the folder holds no model."""
    check_model(path)
    place = _place(device)
    kind = ("bfloat16" if place.type == "cuda" else "float32") if dtype == "auto" else dtype
    if kind not in DTYPES:
        raise ModelError(f"dtype {dtype!r}: expected auto, {', '.join(DTYPES)}")
    torch.backends.cuda.matmul.allow_tf32 = tf32
    quantised: dict[str, Any] = {}
    if four_bit:
        quantised = {"quantization_config": _nf4(DTYPES[kind]), "device_map": {"": str(place)}}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), revision=revision)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(path),
            revision=revision,
            dtype=DTYPES[kind],
            attn_implementation=attention,
            output_loading_info=True,
            **quantised,
        )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{path} could not be loaded as a causal language model: {reason}") from error
    model, loading = loaded
    if missing := sorted(loading["missing_keys"]):  # transformers would draw these at random
        raise ModelError(f"the weights of {path} lack {len(missing)} tensors, first {missing[0]}: get the whole model")
    model.requires_grad_(False).eval()
    if not four_bit:  # bitsandbytes has put its weights where they belong
        model.to(place)
    if tokenizer.eos_token is None:
        raise ModelError(f"the tokenizer of {path} has no end-of-sequence token: set eos_token in its config")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # A model's own generation settings (temperature, repetition penalty) would change what is measured.
    model.generation_config = GenerationConfig(pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
    kind += "/nf4" * four_bit + "/tf32" * tf32
    return LoadedModel(model, tokenizer, model_id(path, model), place, kind, attention)


def checkpoint_activations(model: Any) -> None:
    """Keep only each layer's input in the forward and compute the rest again in the backward: a third more time, a
    fraction of the memory. The layers alone are put in training mode, which is when transformers does it; what is
    inside them stays in evaluation mode, so dropout stays off."""
    model.activation_checkpointing_enable({"use_reentrant": False})
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.training = True


def context_length(model: Any) -> int | None:
    """The longest sequence that the model was made for, in tokens; None where its config does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def model_id(path: str | Path, model: Any) -> str:
    """Name a model by config and weights; one from a hub by repository and commit."""
    folder = Path(path)
    if not folder.is_dir():
        return content_id("model", {"repository": str(path), "commit": model.config._commit_hash})
    config = json.loads((folder / "config.json").read_text())
    settings = {k: v for k, v in config.items() if k not in VOLATILE}
    return content_id("model", {"config": settings, "weights": _weight_digests(folder)})


def check_model(path: str | Path) -> None:
    """Refuse, without loading it, a folder that holds no model. A hub id passes. Raises ModelError."""
    if Path(path).exists() or str(path).startswith((".", "/")):
        _check_folder(Path(path))


def _nf4(dtype: torch.dtype) -> BitsAndBytesConfig:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtra("bitsandbytes", "quant", "--load-in-4bit")
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _place(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise ModelError(f"device {device!r}: expected auto, cpu, cuda, cuda:1 …") from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {device!r} was asked for, but torch sees no CUDA here: use --device cpu")
    return place


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(f"no model folder {folder}: expected a folder with config.json and weights, or a hub id")
    found = sorted(p.name for p in folder.iterdir())
    if "config.json" not in found:
        raise ModelError(f"{folder} holds no config.json, so it is not a model folder; it holds {found[:8]}")
    if not _weight_files(folder):
        raise ModelError(
            f"{folder} holds config.json but no weights (*.safetensors or pytorch_model*.bin): "
            "download or save the whole model there"
        )


def _weight_files(folder: Path) -> list[Path]:
    safe = sorted(p for p in folder.glob("*.safetensors") if not p.name.startswith("adapter"))
    return safe or sorted(folder.glob("pytorch_model*.bin"))


def _weight_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each shard, cached beside the model by (size, mtime): hashing 16 GB takes a while."""
    cache = folder / DIGEST_CACHE
    known = json.loads(cache.read_text()) if cache.exists() else {}
    digests, entries = {}, {}
    for shard in _weight_files(folder):
        stat = shard.stat()
        entry = known.get(shard.name, {})
        if (entry.get("size"), entry.get("mtime_ns")) != (stat.st_size, stat.st_mtime_ns):
            with shard.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            entry = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest}
        digests[shard.name] = entry["sha256"]
        entries[shard.name] = entry
    if entries != known:
        try:
            cache.write_text(json.dumps(entries, indent=1, sort_keys=True))
        except OSError:  # a read-only model folder only costs the cache
            return digests
    return digests
