"""Checkpoints and samples → ``gradients``: both responses of every training sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from gradstore import runs
from gradstore.errors import CheckpointError, GradstoreError
from gradstore.identity import content_id, row_id
from gradstore.models.adapters import load_adapter
from gradstore.models.checkpoints import Checkpoint, epoch_folders, read_checkpoint
from gradstore.models.encoding import encode
from gradstore.models.extraction import Extractor, Item
from gradstore.models.features import FEATURES
from gradstore.models.loading import LoadedModel
from gradstore.pipelines import ModelOptions, Progress, silent
from gradstore.pipelines.model import load, special_tokens
from gradstore.pipelines.warmup import record
from gradstore.pipelines.work import check_probed, make_prompt, pending, read_samples, write_prompts
from gradstore.prompts import Prompt, Sample
from gradstore.schemas import TABLES
from gradstore.sketch import Sketch
from gradstore.store import GradientStore

RESPONSES = ("answer", "refusal")


@dataclass(frozen=True)
class ExtractSettings:
    """What a gradient row is made of, besides model and checkpoint."""

    feature: str = "adam"
    dim: int = 8192
    seed: int = 0
    sparsity: int = 1
    template: str = "refuse"

    def __post_init__(self) -> None:
        if self.feature not in FEATURES:
            raise GradstoreError(f"feature {self.feature!r}: expected {', '.join(FEATURES)}")

    @property
    def sketch(self) -> Sketch:
        return Sketch(dim=self.dim, seed=self.seed, sparsity=self.sparsity)


def extract(
    store: GradientStore,
    options: ModelOptions,
    checkpoints: Sequence[str | Path],
    settings: ExtractSettings | None = None,
    *,
    progress: Progress = silent,
) -> dict[str, int]:
    """Write gradient rows of all training samples at each checkpoint folder (a warm-up folder means its epochs).

    Resumes where it was stopped. Returns counts by status over the new rows. Raises ProvenanceError where a
    checkpoint belongs to another model than the one given, or than the one probed.
    """
    settings = settings or ExtractSettings()
    samples = read_samples(store, "train")
    folders = [f for given in checkpoints for f in epoch_folders(given) or [Path(given)]]
    loaded = load(options)
    check_probed(store, loaded.model_id)
    found = [read_checkpoint(folder, loaded.model_id) for folder in folders]
    _check_moments(found, settings.feature)
    prompt = make_prompt(store, settings.template, loaded.chat_template, special_tokens(loaded))
    recipe = recipe_row(settings, prompt, options.max_length, loaded)
    asked = {
        "recipe_id": recipe["recipe_id"],
        "checkpoints": [c.checkpoint_id for c in found],
        **asdict(options),
        **asdict(settings),
    }
    table = f"gradients_{recipe['recipe_id']}"
    present = [table] if recipe["recipe_id"] in store.recipe_ids() else []
    with runs.begin(store, "extract", asked, ["samples", *present]) as run:
        samples = read_samples(store, "train", run.versions["samples"])
        then = store.keys(table, version=run.versions[table]) if table in run.versions else set()
        record(store, folders)
        write_prompts(store, [prompt])
        store.write("recipes", pa.Table.from_pylist([recipe], schema=TABLES["recipes"].schema))
        statuses: Counter[str] = Counter()
        for number, checkpoint in enumerate(found, start=1):
            work = _Work(store, loaded, checkpoint, prompt, recipe["recipe_id"], settings, options)
            label = f"extract {checkpoint.record.name} ({number}/{len(found)})"
            statuses += work.run(samples, then, partial(progress, label))
        counts = {"samples": len(samples), "checkpoints": len(found), "new": sum(statuses.values()), **statuses}
        run.finish(counts, [table, "checkpoints", "recipes", "prompts"])
    if run.resumed and store.versions(["samples"])["samples"] != run.versions["samples"]:
        # The run that was killed is done; samples that came since are another.
        later = extract(store, options, checkpoints, settings, progress=progress)
        return {k: v + counts.get(k, 0) if k not in ("samples", "checkpoints") else v for k, v in later.items()}
    return counts


def recipe_row(settings: ExtractSettings, prompt: Prompt, max_length: int, loaded: LoadedModel) -> dict[str, Any]:
    """The row of the ``recipes`` table; its id hashes all other columns."""
    columns = {
        "feature": settings.feature,
        "loss_reduction": "mean",
        "prompt_id": prompt.prompt_id,
        "refusal_text": prompt.refusal_text,
        "max_length": max_length,
        "dtype": loaded.dtype,
        "attention": loaded.attention,
        **settings.sketch.as_columns(),
    }
    return {"recipe_id": content_id("recipe", columns), **columns}


@dataclass(frozen=True)
class _Work:
    """One checkpoint under one recipe."""

    store: GradientStore
    loaded: LoadedModel
    checkpoint: Checkpoint
    prompt: Prompt
    recipe_id: str
    settings: ExtractSettings
    options: ModelOptions

    def run(self, samples: dict[str, Sample], then: set[str], progress: Callable[[int, int], None]) -> Counter[str]:
        """Write what is missing, commit by commit; counts the new rows by status."""
        adapted = load_adapter(self.loaded.model, self.checkpoint.folder)
        moments, sketch = self.checkpoint.moments, self.settings.sketch
        extractor = Extractor(self.loaded, adapted, moments, self.settings.feature, sketch)
        items = {i: _items(self.loaded, self.prompt, s, self.options.max_length) for i, s in samples.items()}
        tail = (self.checkpoint.checkpoint_id, self.recipe_id)
        keys = {i: [row_id(i, r, *tail) for r in RESPONSES] for i in samples}
        lengths = {i: max(len(x.encoded.ids) for x in pair) for i, pair in items.items()}
        now = self.store.keys("gradients")
        done, total = sum(len(now.intersection(k)) for k in keys.values()), len(RESPONSES) * len(samples)
        statuses: Counter[str] = Counter()
        for commit in pending(lengths, keys, then, now, self.options.batch_tokens, copies=len(RESPONSES)):
            parts: list[pa.Table] = []
            for batch in commit:
                parts.append(extractor.rows([item for i in batch for item in items[i]]))
                progress(min(total, done + sum(p.num_rows for p in parts)), total)
            rows = _with_keys(pa.concat_tables(parts), tail)
            fresh = rows.filter(pa.array([k not in now for k in rows["row_id"].to_pylist()]))
            self.store.write("gradients", rows)
            statuses.update(fresh["status"].to_pylist())
            done += fresh.num_rows
        self.loaded.model = adapted.unload()
        return statuses


def _check_moments(checkpoints: Sequence[Checkpoint], feature: str) -> None:
    bare = [c.folder for c in checkpoints if c.moments is None]
    if feature != "sgd" and bare:
        raise CheckpointError(
            f"{bare[0]} has no optimizer state, which feature {feature} needs: "
            "register it with its optimizer.pt, or use --feature sgd"
        )


def _items(loaded: LoadedModel, prompt: Prompt, sample: Sample, max_length: int) -> list[Item]:
    asked = prompt.ask(sample)
    pair = []
    for response in RESPONSES:
        reply = prompt.reply(sample, prompt.response_text(sample, response))
        pair.append(Item(sample["sample_id"], response, encode(loaded.tokenizer, asked, reply, max_length)))
    return pair


def _with_keys(rows: pa.Table, tail: tuple[str, str]) -> pa.Table:
    pairs = zip(rows["sample_id"].to_pylist(), rows["response"].to_pylist(), strict=True)
    rows = rows.append_column("row_id", pa.array([row_id(i, r, *tail) for i, r in pairs]))
    rows = rows.append_column("checkpoint_id", pa.array([tail[0]] * rows.num_rows))
    return rows.append_column("recipe_id", pa.array([tail[1]] * rows.num_rows))
