"""A checkpoint on disk: the adapter, Adam's moments by parameter name, and a record. Never a pickle.

DIR/adapter_model.safetensors, adapter_config.json    as peft saves them
DIR/moments.safetensors     <parameter>.exp_avg and .exp_avg_sq, float32
DIR/checkpoint.json         step, betas, eps, learning rate, model, what it was trained on
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gradstore.errors import CheckpointError, ProvenanceError
from gradstore.identity import content_id
from gradstore.models.features import Moments

SCALING = ("r", "lora_alpha", "use_rslora", "use_dora", "target_modules", "rank_pattern", "alpha_pattern", "bias")
RECORD, MOMENTS, ADAPTER = "checkpoint.json", "moments.safetensors", "adapter_model.safetensors"


@dataclass(frozen=True)
class Record:
    """What a checkpoint was: written beside it, and a row of the ``checkpoints`` table."""

    model_id: str
    name: str
    step: int
    epoch: int | None
    learning_rate: float
    beta1: float
    beta2: float
    eps: float
    training_ids: list[str] | None = None
    libraries: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read from disk; ``moments`` is None where there is no optimizer state."""

    folder: Path
    record: Record
    moments: Moments | None
    adapter_digest: str
    moments_digest: str | None

    @property
    def checkpoint_id(self) -> str:
        r = self.record
        numbers = {k: getattr(r, k) for k in ("step", "beta1", "beta2", "eps", "learning_rate")}
        digests = {"adapter": self.adapter_digest, "moments": self.moments_digest}
        return content_id("checkpoint", {"model_id": r.model_id, **numbers, **digests})

    def as_row(self) -> dict[str, Any]:
        """The row of the ``checkpoints`` table."""
        r = self.record
        return {
            "checkpoint_id": self.checkpoint_id,
            **{k: getattr(r, k) for k in ("model_id", "name", "step", "epoch", "learning_rate")},
            **{k: getattr(r, k) for k in ("beta1", "beta2", "eps", "training_ids")},
            "adapter_digest": self.adapter_digest,
            "moments_digest": self.moments_digest,
            "libraries": json.dumps(dict(r.libraries), sort_keys=True),
        }


def save_state(folder: Path, moments: Mapping[str, tuple[torch.Tensor, torch.Tensor]], record: Record) -> None:
    """Write moments and record beside an adapter that peft has saved; the record last, so it marks completeness."""
    tensors = {}
    for name, (m, v) in moments.items():
        tensors[f"{name}.exp_avg"] = m.detach().float().cpu().contiguous()
        tensors[f"{name}.exp_avg_sq"] = v.detach().float().cpu().contiguous()
    if tensors:
        save_file(tensors, str(folder / MOMENTS))
    write_record(folder, record)


def write_record(folder: Path, record: Record) -> None:
    """Write, or write anew, what is known of a checkpoint beside it."""
    text = json.dumps(record.__dict__ | {"libraries": dict(record.libraries)}, indent=1, sort_keys=True)
    (folder / RECORD).write_text(text + "\n")


def read_checkpoint(folder: str | Path, model_id: str | None = None) -> Checkpoint:
    """Read a checkpoint. Raises CheckpointError where something is missing, ProvenanceError where it belongs to
    another base model than ``model_id``."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"no checkpoint folder {folder}: `gradstore warmup` makes one")
    if not (folder / RECORD).exists():
        raise CheckpointError(
            f"{folder} holds no {RECORD}: for a checkpoint of another trainer run `gradstore register STORE {folder}`; "
            "after a warm-up, name one of its epoch folders"
        )
    try:
        record = Record(**json.loads((folder / RECORD).read_text()))
    except (json.JSONDecodeError, TypeError) as error:
        raise CheckpointError(f"{folder / RECORD} is not a record of a checkpoint: {error}") from None
    if model_id is not None and record.model_id != model_id:
        raise ProvenanceError(
            f"the checkpoint {folder} was trained on model {record.model_id}, the model given is {model_id}: "
            "give the model that the checkpoint was trained on"
        )
    state = _read_moments(folder / MOMENTS, record) if (folder / MOMENTS).exists() else None
    moments_digest = digest_tensors(folder / MOMENTS) if state else None
    return Checkpoint(folder, record, state, _adapter_digest(folder), moments_digest)


def epoch_folders(folder: str | Path) -> list[Path]:
    """The checkpoints below a warm-up folder, in order of epoch; the folder itself if it is one."""
    folder = Path(folder)
    if (folder / RECORD).exists():
        return [folder]
    found = [p.parent for p in folder.glob(f"epoch-*/{RECORD}")]
    return sorted(found, key=lambda p: int(p.name.removeprefix("epoch-")))


def digest_tensors(path: Path) -> str:
    """SHA-256 over names, types, shapes and bytes: two files with the same tensors have one digest."""
    if not path.exists():
        raise CheckpointError(f"{path.parent} holds no {path.name}: expected a folder saved by peft")
    digest = hashlib.sha256()
    try:
        tensors = load_file(str(path))
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from None
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _adapter_digest(folder: Path) -> str:
    """Tensors and what they are scaled and placed by: the same tensors with another alpha have other gradients."""
    tensors = digest_tensors(folder / ADAPTER)
    path = folder / "adapter_config.json"
    if not path.exists():
        raise CheckpointError(f"{folder} holds no adapter_config.json: expected a folder saved by peft")
    config = json.loads(path.read_text())
    kept = {k: sorted(v) if isinstance(v, list) else v for k, v in config.items() if k in SCALING}
    return content_id("adapter", {"tensors": tensors, "config": kept})


def _read_moments(path: Path, record: Record) -> Moments:
    tensors = load_file(str(path))
    names = sorted({n.rsplit(".", 1)[0] for n in tensors})
    by_name = {n: (tensors[f"{n}.exp_avg"], tensors[f"{n}.exp_avg_sq"]) for n in names}
    return Moments(by_name, record.step, record.beta1, record.beta2, record.eps)
