"""From files to a store full of gradients: ingest, probe, warm-up, extract. Each stage resumes by itself."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradstore.models.loading import check_model
from gradstore.models.warmup import WarmupSettings
from gradstore.pipelines import ModelOptions, Progress, silent
from gradstore.pipelines.extract import extract
from gradstore.pipelines.ingest import ingest
from gradstore.pipelines.probe import ProbeSettings, probe
from gradstore.pipelines.recipes import ExtractSettings
from gradstore.pipelines.warmup import warmup
from gradstore.pipelines.work import read_exposure, work_folder
from gradstore.store import GradientStore

DEFAULTS = tomllib.loads((Path(__file__).parent / "build.toml").read_text())


def build(
    uri: str | Path,
    files: Sequence[str | Path],
    options: ModelOptions,
    *,
    preset: str,
    limit: int | None = None,
    fields: dict[str, str] | None = None,
    split: str | None = None,
    work: str | Path | None = None,
    all_checkpoints: bool = False,
    probe_settings: ProbeSettings | None = None,
    warmup_settings: WarmupSettings | None = None,
    extract_settings: ExtractSettings | None = None,
    rehearsal: int | None = None,
    progress: Progress = silent,
) -> dict[str, dict[str, Any]]:
    """Run the four stages in order; returns the counts of each.

    Checkpoints go to ``work`` (default: beside the store). The gradients are those of the last epoch, or of all.
    """
    check_model(options.model)  # before anything is written
    folder = work_folder(uri, work)
    counts: dict[str, dict[str, Any]] = {}
    exposure = read_exposure(options.model)
    counts["ingest"] = ingest(uri, files, preset=preset, limit=limit, fields=fields, split=split, exposure=exposure)
    store = GradientStore.open(uri)
    counts["probe"] = probe(store, options, probe_settings, progress=progress)
    settings = warmup_settings or default_warmup()
    rehearsed = rehearsal or DEFAULTS["warmup"]["rehearsal"]
    probe_id = counts["probe"]["probe_id"]
    epochs = warmup(
        store, options, folder / "warmup", settings, rehearsal=rehearsed, probe_id=probe_id, progress=progress
    )
    counts["warmup"] = {"checkpoints": len(epochs)}
    chosen = epochs if all_checkpoints else epochs[-1:]
    counts["extract"] = extract(store, options, chosen, extract_settings or default_extract(), progress=progress)
    return counts


def default_warmup(**changes: Any) -> WarmupSettings:
    """The warm-up of build.toml, with changes."""
    chosen = {k: v for k, v in DEFAULTS["warmup"].items() if k != "rehearsal"}
    return WarmupSettings(**(chosen | changes))


def default_extract(**changes: Any) -> ExtractSettings:
    """The recipe of build.toml, with changes."""
    return ExtractSettings(**(DEFAULTS["extract"] | changes))
