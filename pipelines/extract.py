"""Checkpoints and samples → ``gradients``: both responses of every training sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from gradstore import runs
from gradstore.errors import CheckpointError
from gradstore.models.checkpoints import Checkpoint, epoch_folders, read_checkpoint
from gradstore.models.features import STATELESS
from gradstore.pipelines import ModelOptions, Progress, silent, unsaid
from gradstore.pipelines.checkpoint_rows import Bar, CheckpointRows
from gradstore.pipelines.gradient_rows import Tally
from gradstore.pipelines.model import load, longest_input, special_tokens
from gradstore.pipelines.recipes import ExtractSettings, HowToRun, recipe_row
from gradstore.pipelines.shards import Shard, on_devices
from gradstore.pipelines.warmup import record
from gradstore.pipelines.work import check_probed, make_prompt, read_samples, write_prompts
from gradstore.schemas import TABLES
from gradstore.store import GradientStore


def extract(
    store: GradientStore,
    options: ModelOptions,
    checkpoints: Sequence[str | Path],
    settings: ExtractSettings | None = None,
    how: HowToRun | None = None,
    *,
    progress: Progress = silent,
    tell: Callable[[str], None] = unsaid,
) -> dict[str, Any]:
    """Write gradient rows of all training samples at each checkpoint folder (a warm-up folder means its epochs).

    Resumes where it was stopped. Returns counts by status over the new rows, rates, the peak of memory, and what the
    features look like (:mod:`gradstore.models.diagnostics`); with ``estimate_only``, the estimate. Raises
    ProvenanceError where a checkpoint belongs to another model than the one given, or than the one probed, and
    ResourceError where the disk cannot hold the rows, or some samples do not fit in memory (the rest is written).
    """
    settings, how = settings or ExtractSettings(), how or HowToRun()
    samples = read_samples(store, "train")
    loaded = load(options)
    check_probed(store, loaded.model_id)
    found = _read(checkpoints, loaded.model_id, settings.feature)
    prompt = make_prompt(store, settings.template, loaded.chat_template, special_tokens(loaded))
    max_length = longest_input(options, loaded, tell)
    recipe = recipe_row(settings, prompt, max_length, loaded)
    work = CheckpointRows(
        store, loaded, prompt, recipe["recipe_id"], settings, replace(options, max_length=max_length), how
    )
    if how.estimate_only:
        return work.estimate(found, how.shard.of(samples), tell)
    asked = {
        "recipe_id": recipe["recipe_id"],
        "checkpoints": [c.checkpoint_id for c in found],
        **{"shard": str(how.shard), "share_prompts": how.share_prompts},
        **asdict(options),
        **asdict(settings),
    }
    table = f"gradients_{recipe['recipe_id']}"
    with runs.begin(store, "extract", asked, ["samples", *store.present([table])]) as run:
        samples = how.shard.of(read_samples(store, "train", run.versions["samples"]))
        then = store.keys(table, version=run.versions[table]) if table in run.versions else set()
        record(store, [c.folder for c in found])
        write_prompts(store, [prompt])
        store.write("recipes", pa.Table.from_pylist([recipe], schema=TABLES["recipes"].schema))
        tally = Tally()
        for number, checkpoint in enumerate(found, start=1):
            name = f"extract {checkpoint.record.name} ({number}/{len(found)})"
            tell(f"{name}: learning rate {checkpoint.record.learning_rate:g}, its weight among checkpoints")
            work.run(checkpoint, samples, then, run, tally, Bar(progress, name, tally), found[number:], tell)
        counts = work.summary(tally, len(samples), len(found), tell)
        tally.check()
        run.finish(counts, [*store.present([table]), "checkpoints", "recipes", "prompts"])
    if run.resumed and store.versions(["samples"])["samples"] != run.versions["samples"]:
        # The run that was killed is done; samples that came since are another.
        later = extract(store, options, checkpoints, settings, how, progress=progress, tell=tell)
        return later | {k: later.get(k, 0) + counts.get(k, 0) for k in ("new", *tally.statuses)}
    return counts


def extract_on(
    devices: Sequence[str],
    uri: str,
    options: ModelOptions,
    checkpoints: Sequence[str | Path],
    settings: ExtractSettings,
    how: HowToRun,
    *,
    progress: Progress = silent,
    tell: Callable[[str], None] = unsaid,
) -> dict[str, Any]:
    """Extract on several devices, one process each; the rows are those of one process. See :mod:`.shards`."""
    stage = partial(_extract_shard, uri, options, tuple(map(str, checkpoints)), settings, how)
    return on_devices(stage, devices, progress, tell)


def _extract_shard(
    uri: str,
    options: ModelOptions,
    checkpoints: Sequence[str],
    settings: ExtractSettings,
    how: HowToRun,
    device: str,
    shard: Shard,
    progress: Progress,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    store, here = GradientStore.open(uri), replace(options, device=device)
    return extract(store, here, checkpoints, settings, replace(how, shard=shard), progress=progress, tell=tell)


def _read(given: Sequence[str | Path], model_id: str, feature: str) -> list[Checkpoint]:
    """The checkpoints of the folders given, with the moments that the feature needs."""
    folders = [f for folder in given for f in epoch_folders(folder) or [Path(folder)]]
    found = [read_checkpoint(folder, model_id) for folder in folders]
    bare = [c.folder for c in found if c.moments is None]
    if feature not in STATELESS and bare:
        raise CheckpointError(
            f"{bare[0]} has no optimizer state, which feature {feature} needs: "
            "register it with its optimizer.pt, or use --feature sgd"
        )
    return found
