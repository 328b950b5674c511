"""Probe → rehearsal set → LoRA checkpoints; and checkpoints made elsewhere → ``checkpoints``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import polars as pl
import pyarrow as pa

from gradstore import runs
from gradstore.errors import SelectionError
from gradstore.identity import seeded_order
from gradstore.models.adapters import load_adapter
from gradstore.models.checkpoints import epoch_folders, read_checkpoint, save_state, write_record
from gradstore.models.encoding import Encoded, encode
from gradstore.models.loading import LoadedModel
from gradstore.models.trainer_state import read_trainer_checkpoint
from gradstore.models.warmup import MARK, WarmupSettings, train
from gradstore.pipelines import ModelOptions, Progress, silent
from gradstore.pipelines.model import load, special_tokens
from gradstore.pipelines.work import initial_probe, knowledge, make_prompt, read_samples, write_prompts
from gradstore.prompts import Prompt, Sample
from gradstore.schemas import TABLES
from gradstore.store import GradientStore


def warmup(
    store: GradientStore,
    options: ModelOptions,
    out: str | Path,
    settings: WarmupSettings | None = None,
    *,
    rehearsal: int = 1000,
    threshold: float = 0.5,
    probe_id: str | None = None,
    progress: Progress = silent,
) -> list[Path]:
    """Train a LoRA on the ``rehearsal`` most correct samples (CRaFT and GRAIT: 1000) and record every epoch.

    Only samples at least as correct as ``threshold`` rehearse; ties go by certainty, then by seeded hash. They are
    asked with the ``refuse`` template and reply with their own answer: the prompt of gradients and of SFT, where
    the released code uses another in each step. A finished warm-up with the same settings is not trained again.
    """
    settings = settings or WarmupSettings()
    out = Path(out)
    loaded = load(options)
    chosen = initial_probe(store, probe_id, loaded.model_id)
    prompt = make_prompt(store, "refuse", loaded.chat_template, special_tokens(loaded))
    samples = read_samples(store, "train")
    probed = knowledge(store, chosen["probe_id"]).filter(pl.col("sample_id").is_in(list(samples)))
    ids = rehearsal_ids(probed, rehearsal, threshold, settings.seed)
    asked = {
        "probe_id": chosen["probe_id"],
        "rehearsal": ids,
        "prompt_id": prompt.prompt_id,
        "max_length": options.max_length,
        **asdict(settings),
    }
    with runs.begin(store, "warmup", asked, ["samples", "probes"]) as run:
        mark = json.dumps(asked, indent=1, sort_keys=True)
        if (out / MARK).exists() and (out / MARK).read_text() == mark:
            folders = epoch_folders(out)
        else:
            encoded = _encode(loaded, prompt, {i: samples[i] for i in ids}, options.max_length)
            libraries = runs.library_versions()
            folders = train(loaded, encoded, out, settings, libraries, mark, lambda d, t: progress("warmup", d, t))
        record(store, folders)
        write_prompts(store, [prompt])
        run.finish({"rehearsed": len(ids), "checkpoints": len(folders)}, ["checkpoints", "prompts"])
    return folders


def register(
    store: GradientStore,
    folder: str | Path,
    options: ModelOptions,
    *,
    learning_rate: float | None = None,
) -> str:
    """Record a checkpoint of Hugging Face's Trainer: maps ``optimizer.pt`` to names, writes moments.safetensors and
    checkpoint.json beside it. Returns the checkpoint id; a folder that has them is recorded as it is."""
    folder = Path(folder)
    loaded = load(options)
    if folder.is_dir() and not epoch_folders(folder):
        adapted = load_adapter(loaded.model, folder)
        moments, found = read_trainer_checkpoint(folder, adapted, loaded.model_id, learning_rate)
        save_state(folder, moments, replace(found, libraries=runs.library_versions()))
    elif folder.is_dir() and learning_rate is not None:
        write_record(folder, replace(read_checkpoint(folder).record, learning_rate=learning_rate))
    checkpoint = read_checkpoint(folder, loaded.model_id)
    run = runs.begin(store, "register", {"checkpoint_id": checkpoint.checkpoint_id}, ["checkpoints"])
    record(store, [folder])
    run.finish({"checkpoints": 1}, ["checkpoints"])
    return checkpoint.checkpoint_id


def record(store: GradientStore, folders: Sequence[Path]) -> None:
    """Write the checkpoints in ``folders`` to their table."""
    rows = [read_checkpoint(folder).as_row() for folder in folders]
    store.write("checkpoints", pa.Table.from_pylist(rows, schema=TABLES["checkpoints"].schema))


def rehearsal_ids(known: pl.DataFrame, count: int, threshold: float, seed: int) -> list[str]:
    """The ``count`` most correct sample ids of a probe, best first. Raises SelectionError where there are none."""
    good = known.filter(pl.col("correctness") >= threshold)
    if good.height == 0:
        raise SelectionError(
            f"no sample is answered with correctness ≥ {threshold}, so there is nothing to rehearse: "
            "lower it (`gradstore warmup --threshold`), or look at the probe's answers with `gradstore query`"
        )
    order = pl.Series("order", [seeded_order(seed, i) for i in good["sample_id"]])
    ranked = good.with_columns(order).sort("correctness", "certainty", "order", descending=[True, True, False])
    return ranked["sample_id"].head(count).to_list()


def _encode(loaded: LoadedModel, prompt: Prompt, samples: dict[str, Sample], max_length: int) -> dict[str, Encoded]:
    encoded = {
        i: encode(loaded.tokenizer, prompt.ask(s), prompt.reply(s, s["answer"]), max_length) for i, s in samples.items()
    }
    whole = {i: e for i, e in encoded.items() if e.status == "ok"}
    if not whole:
        raise SelectionError(f"every rehearsal sample is longer than {max_length} tokens: raise --max-length")
    return whole
