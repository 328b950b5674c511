"""The whole story on invented people: pretrain, probe, warm up, extract, select, export, fine-tune, evaluate.

Each step is the library call that a user would make; only the model is small and the people are invented.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gradstore.errors import StoreError
from gradstore.identity import sample_id
from gradstore.models.pretraining import pretrain, save_model, small_llama, word_tokenizer
from gradstore.pipelines import ModelOptions, Progress, silent
from gradstore.pipelines.build import default_extract, default_warmup
from gradstore.pipelines.evaluate import compare, evaluate
from gradstore.pipelines.export import export
from gradstore.pipelines.extract import extract
from gradstore.pipelines.ingest import ingest
from gradstore.pipelines.lab.people import Fact, people, pretraining_texts
from gradstore.pipelines.probe import ProbeSettings, probe
from gradstore.pipelines.select import select
from gradstore.pipelines.warmup import warmup
from gradstore.selection import Settings
from gradstore.store import GradientStore, query

METHODS = ("random", "cor-rait", "grait")
CONFUSION = """
    SELECT s.exposure, COUNT(*) AS questions,
           SUM(CASE WHEN p.correctness >= 0.5 THEN 1 ELSE 0 END) AS known,
           SUM(CASE WHEN p.correctness < 0.5 THEN 1 ELSE 0 END) AS unknown
    FROM probes p JOIN samples s ON p.sample_id = s.sample_id GROUP BY s.exposure ORDER BY s.exposure
"""


@dataclass(frozen=True)
class DemoSettings:
    """The size of the demo; the defaults take a few minutes on two cores."""

    people: int = 900
    steps: int = 300
    batch_size: int = 256
    known: int = 200
    unknown: int = 50
    rehearsal: int = 400
    warmup_epochs: int = 2
    warmup_rate: float = 1e-3
    lora_r: int = 8
    sft_epochs: int = 6
    sft_rate: float = 5e-3  # where the control, cor-rait, learns most: an SFT too weak to refuse compares nothing
    seeds: tuple[int, ...] = (0, 1, 2)


def demo(folder: str | Path, settings: DemoSettings | None = None, *, progress: Progress = silent) -> dict[str, Any]:
    """Run the demo in a new folder. Returns the confusion of exposure and knowledge, and a row of metrics a method.

    ``rows``: method, then mean over the SFT seeds and, as ``<metric>_spread``, the standard deviation (n−1) of
    correct, wrong, refused, ths, over_refusal, and refused_often/_rarely/_never.
    """
    settings, folder = settings or DemoSettings(), Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise StoreError(f"{folder} is not empty: give `gradstore demo` a new folder, or delete this one")
    folder.mkdir(parents=True, exist_ok=True)
    facts = people(settings.people)
    model = _world(folder, facts, settings, progress)
    store = _measure(folder, model, facts, settings, progress)
    evaluate(store, "init", model, template="basic", max_new_tokens=8, progress=progress)
    rows = [{"method": "init", **_metrics(store, ["init"])}]
    for method in METHODS:
        chosen = Settings(method=method, known=settings.known, unknown=settings.unknown)
        select(store, method, chosen, progress=progress)
        export(store, method, "trl", folder / "export" / method)
        names = [_fine_tune(folder, store, model, method, seed, settings, progress) for seed in settings.seeds]
        rows.append({"method": method, **_metrics(store, names)})
    confusion = query(store, CONFUSION).collect().to_dicts()
    return {"store": store.uri, "confusion": confusion, "rows": rows}


def _world(folder: Path, facts: Sequence[Fact], settings: DemoSettings, progress: Progress) -> ModelOptions:
    """Write the questions, train the model that knows some of them, and say which beside it."""
    texts, weights = pretraining_texts(facts)
    tokenizer = word_tokenizer(texts)
    model = small_llama(tokenizer)
    pretrain(
        model,
        tokenizer,
        texts,
        weights,
        steps=settings.steps,
        batch_size=settings.batch_size,
        progress=lambda done, total: progress("pretrain", done, total),
    )
    save_model(model, tokenizer, folder / "model")
    exposure = pl.DataFrame(
        {
            "sample_id": [sample_id("oeqa", f.question, None) for f in facts],
            "exposure": [f.exposure for f in facts],
        }
    )
    exposure.write_parquet(folder / "model" / "exposure.parquet")
    for name, test in (("train", False), ("test", True)):
        lines = [json.dumps(f.as_record()) + "\n" for f in facts if f.test is test]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return ModelOptions(str(folder / "model"), device="cpu", max_length=128, batch_tokens=8192)


def _measure(
    folder: Path, model: ModelOptions, facts: Sequence[Fact], settings: DemoSettings, progress: Progress
) -> GradientStore:
    """Ingest, probe, warm up, extract: what `gradstore build` does, with a test half beside it."""
    exposure = {sample_id("oeqa", f.question, None): f.exposure for f in facts}
    for role in ("train", "test"):
        ingest(folder / "store", [folder / f"{role}.jsonl"], preset="qa", role=role, exposure=exposure)
    store = GradientStore.open(folder / "store")
    probe(store, model, ProbeSettings(max_new_tokens=8), progress=progress)
    rehearsed = default_warmup(
        r=settings.lora_r, alpha=2 * settings.lora_r, epochs=settings.warmup_epochs, learning_rate=settings.warmup_rate
    )
    epochs = warmup(store, model, folder / "warmup", rehearsed, rehearsal=settings.rehearsal, progress=progress)
    extract(store, replace(model, batch_tokens=4096), epochs[-1:], default_extract(), progress=progress)
    return store


def _fine_tune(
    folder: Path,
    store: GradientStore,
    model: ModelOptions,
    method: str,
    seed: int,
    settings: DemoSettings,
    progress: Progress,
) -> str:
    """The external step: the very file that the export carries, run on the exported rows; then evaluate."""
    from gradstore.models import weighted_sft

    name, out = f"{method}-{seed}", folder / "sft" / f"{method}-{seed}"
    arguments = {
        "--model": model.model,
        "--data": folder / "export" / method / "trl" / "train.jsonl",
        "--out": out,
        "--epochs": settings.sft_epochs,
        "--lr": settings.sft_rate,
        "--batch-size": 16,
        "--accumulation": 1,
        "--lora-r": settings.lora_r,
        "--max-length": model.max_length,
        "--seed": seed,
    }
    progress(f"fine-tune {method}", seed, len(settings.seeds))
    with (folder / "sft.log").open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        weighted_sft.main([str(x) for pair in arguments.items() for x in pair])
    shutil.rmtree(folder / "sft" / ".cache", ignore_errors=True)
    evaluate(store, name, model, adapter=out, max_new_tokens=8)
    progress(f"fine-tune {method}", seed + 1, len(settings.seeds))
    return name


def _metrics(store: GradientStore, names: Sequence[str]) -> dict[str, float]:
    """Mean and spread over evaluations, each against the initial model's."""
    found = []
    for name in names:
        result = compare(store, "init", name)
        refused = {f"refused_{e}": share for e, share in result.pop("refused_by_exposure").items()}
        found.append({k: v for k, v in {**result, **refused}.items() if v is not None and k != "n"})
    means = {k: float(np.mean([f[k] for f in found])) for k in found[0]}
    if len(found) < 2:
        return means
    return means | {f"{k}_spread": float(np.std([f[k] for f in found], ddof=1)) for k in found[0]}
