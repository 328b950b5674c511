"""Warm-up: a short LoRA fine-tuning on what the model knows, so that gradients are read near where SFT will work.

LESS §3.2 and GRAIT's rehearsal. Each epoch is saved with the moments that the next step would use.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gradstore.errors import CheckpointError
from gradstore.models.adapters import adapter_parameters, add_lora
from gradstore.models.checkpoints import Record, epoch_folders, save_state
from gradstore.models.encoding import Encoded
from gradstore.models.loading import LoadedModel
from gradstore.models.losses import Forward

MARK = "warmup.json"  # what was asked for, so that a second run of the same command finds its work done


@dataclass(frozen=True)
class WarmupSettings:
    """Adapter and optimiser of the warm-up; the learning rate falls linearly after 3 % of the steps (LESS)."""

    r: int = 16
    alpha: int = 32
    targets: str = "all-linear"
    epochs: int = 4
    batch_size: int = 16
    learning_rate: float = 2e-4
    warmup_ratio: float = 0.03
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    seed: int = 0


def train(
    loaded: LoadedModel,
    samples: dict[str, Encoded],
    out: Path,
    settings: WarmupSettings,
    libraries: dict[str, str],
    mark: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Train on ``samples`` (id → encoded) and return the epoch folders. One loss a sample: its mean token loss.

    The same arguments give the same bytes on one machine. The folder appears whole: what a killed training left
    lies beside it as ``<out>.partial`` and is started anew. Raises CheckpointError if ``out`` is there already.
    """
    if out.exists():
        raise CheckpointError(f"{out} already exists: give another --out, or delete it")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model = add_lora(loaded.model, r=settings.r, alpha=settings.alpha, targets=settings.targets, seed=settings.seed)
    model.train()
    parameters = adapter_parameters(model)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=settings.learning_rate, betas=settings.betas, eps=settings.eps, weight_decay=0.0
    )
    ids = sorted(samples)
    per_epoch = math.ceil(len(ids) / settings.batch_size)
    total, step = per_epoch * settings.epochs, 0
    for epoch in range(1, settings.epochs + 1):
        order = np.random.default_rng([settings.seed, epoch]).permutation(len(ids))
        rates = []
        for start in range(0, len(ids), settings.batch_size):
            rate = settings.learning_rate * _schedule(step, total, settings.warmup_ratio)
            batch = [samples[ids[i]] for i in order[start : start + settings.batch_size]]
            _step(model, optimizer, batch, rate, loaded)
            rates.append(rate)
            step += 1
            progress(step, total)
        record = Record(
            model_id=loaded.model_id,
            name=f"epoch-{epoch}",
            step=step,
            epoch=epoch,
            learning_rate=sum(rates) / len(rates),
            beta1=settings.betas[0],
            beta2=settings.betas[1],
            eps=settings.eps,
            training_ids=ids,
            libraries=libraries,
        )
        folder = partial / f"epoch-{epoch}"
        model.save_pretrained(str(folder))
        state = {n: (optimizer.state[p]["exp_avg"], optimizer.state[p]["exp_avg_sq"]) for n, p in parameters.items()}
        save_state(folder, state, record)
    loaded.model = model.unload()
    (partial / MARK).write_text(mark)
    partial.rename(out)
    return epoch_folders(out)


def _step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Sequence[Encoded],
    rate: float,
    loaded: LoadedModel,
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    Forward(model, loaded.pad_id, loaded.device).losses(batch).mean().backward()
    torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _schedule(step: int, total: int, warmup_ratio: float) -> float:
    warm = math.ceil(total * warmup_ratio)
    return (step + 1) / warm if step < warm else (total - step) / max(1, total - warm)
