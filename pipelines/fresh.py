"""A LoRA that was never trained, for a model that has no checkpoint: plain gradients need no optimizer state."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradstore import runs
from gradstore.errors import CheckpointError, GradstoreError
from gradstore.identity import content_id
from gradstore.models.adapters import add_lora
from gradstore.models.checkpoints import RECORD, Record, save_state
from gradstore.models.features import STATELESS
from gradstore.models.warmup import WarmupSettings
from gradstore.pipelines import ModelOptions, unsaid
from gradstore.pipelines.model import load
from gradstore.pipelines.work import work_folder


def fresh_adapter(
    uri: str,
    options: ModelOptions,
    spec: str,
    feature: str,
    work: str | Path | None = None,
    tell: Callable[[str], None] = unsaid,
) -> Path:
    """Make a LoRA that was never trained, where there is no checkpoint, and return its folder.

    ``spec``: ``r=16,targets=q_proj,v_proj``, and ``alpha=`` (default 2r), ``seed=`` (default 0). The folder is named by
    model and spec, so the same call finds it again. Raises GradstoreError for a spec or feature that does not fit.
    """
    given = _parse_fresh(spec)
    if feature not in STATELESS:
        raise CheckpointError(f"a fresh LoRA has no optimizer state, which feature {feature} needs: use --feature sgd")
    loaded = load(replace(options, device="cpu", load_in_4bit=False))  # the devices are for the extractors
    name = content_id("init-lora", {"model_id": loaded.model_id, **given})
    folder = work_folder(uri, work) / f"init-lora-{name[:12]}"
    tell("a fresh LoRA: its B is zero, so every gradient of an A is zero; the rows hold the gradients of the Bs")
    if not (folder / RECORD).exists():
        adapted = add_lora(loaded.model, **given)
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")  # several jobs may start at once
        adapted.save_pretrained(str(partial))
        nothing = Record(loaded.model_id, folder.name, 0, None, 0.0, *WarmupSettings().betas, WarmupSettings().eps)
        save_state(partial, {}, replace(nothing, training_ids=[], libraries=runs.library_versions()))
        try:
            partial.rename(folder)
        except OSError:  # another job was faster, with the same bytes
            shutil.rmtree(partial)
    return folder


def _parse_fresh(spec: str) -> dict[str, Any]:
    """``a=1,b=x,y`` → {a: 1, b: "x,y"}: what follows a comma without an equals sign belongs to the item before."""
    found: dict[str, str] = {}
    for part in spec.split(","):
        name, equals, value = part.partition("=")
        if equals:
            found[last := name.strip()] = value.strip()
        elif found:
            found[last] += f",{part.strip()}"
    numbers = {k: found[k] for k in ("r", "alpha", "seed") if k in found}
    if (
        "r" not in found
        or set(found) - {"r", "targets", "alpha", "seed"}
        or not all(map(str.isdigit, numbers.values()))
    ):
        raise GradstoreError(f"--init-lora {spec!r}: expected r=N and, if wanted, targets=A,B, alpha=N, seed=N")
    r = int(found["r"])
    targets = found.get("targets", "all-linear")
    return {"r": r, "alpha": int(found.get("alpha", 2 * r)), "targets": targets, "seed": int(found.get("seed", 0))}
