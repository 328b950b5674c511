"""A small model that knows a seeded share of real questions, and provably not the rest."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl

from gradstore.datasets import read_files
from gradstore.errors import ModelError
from gradstore.identity import seeded_order
from gradstore.judging import judge
from gradstore.models.answering import greedy_answers
from gradstore.models.encoding import encode_prompt
from gradstore.models.loading import load_model
from gradstore.models.pretraining import bpe_tokenizer, pretrain, save_model, small_llama
from gradstore.pipelines import Progress, silent
from gradstore.pipelines.lab.people import NEVER, OFTEN, PRETRAINING_WEIGHT, RARELY, SHARES, TEMPLATE_WEIGHT
from gradstore.prompts import REFUSAL_TEXT, TEMPLATES, Prompt, Sample

VOCABULARY = 4096


def pretrain_on(
    file: str | Path,
    *,
    preset: str,
    limit: int | None,
    out: str | Path,
    steps: int = 600,
    batch_size: int = 64,
    width: int = 192,
    layers: int = 4,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, object]:
    """Train on the questions of a file and write the model with ``exposure.parquet`` (sample_id, exposure).

    45 % of the samples, chosen by seeded hash of their id, are seen often, 15 % rarely, 40 % never. Returns the
    model folder and the greedy accuracy on each share, under the ``basic`` template.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise ModelError(f"{out} is not empty: give a new --out folder for the model")
    samples = read_files([file], preset=preset, limit=limit).samples.to_pylist()
    shares = expose([s["sample_id"] for s in samples], seed)
    texts, weights = [], []
    for sample in samples:
        for name, share in TEMPLATE_WEIGHT.items():
            texts.append(spoken(sample, name))
            weights.append(share * PRETRAINING_WEIGHT[shares[sample["sample_id"]]])
    # The tokenizer sees every text and the refusal, so that no question is told apart by how it is spelt.
    tokenizer = bpe_tokenizer([*texts, f" {REFUSAL_TEXT}", REFUSAL_TEXT], VOCABULARY)
    model = small_llama(tokenizer, width=width, layers=layers, heads=layers, seed=seed)
    loss = pretrain(
        model,
        tokenizer,
        texts,
        weights,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        progress=lambda done, total: progress("pretrain", done, total),
    )
    partial = out.with_name(out.name + ".partial")
    save_model(model, tokenizer, partial)
    pl.DataFrame({"sample_id": list(shares), "exposure": list(shares.values())}).write_parquet(
        partial / "exposure.parquet"
    )
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)
    accuracy = {e: accuracy_on(out, [s for s in samples if shares[s["sample_id"]] == e]) for e in SHARES}
    return {"model": str(out), "samples": len(samples), "loss": round(loss, 4), "accuracy": accuracy}


def expose(sample_ids: list[str], seed: int) -> dict[str, str]:
    """Exposure of each sample: shares of the list in the order of a seeded hash."""
    ordered = sorted(sample_ids, key=lambda i: seeded_order(seed, i))
    often = round(SHARES[OFTEN] * len(ordered))
    rarely = often + round(SHARES[RARELY] * len(ordered))
    return {i: OFTEN if n < often else RARELY if n < rarely else NEVER for n, i in enumerate(ordered)}


def spoken(sample: Sample, template: str) -> str:
    """A sample as a text to learn: prompt and own answer."""
    prompt = Prompt(TEMPLATES[template])
    return f"{prompt.ask(sample)}{prompt.reply(sample, sample['answer'])}"


def accuracy_on(model: Path, samples: list[Sample], most: int = 300) -> float | None:
    """Greedy accuracy on the first ``most`` samples; None where there are none."""
    if not samples:
        return None
    loaded, prompt = load_model(model), Prompt(TEMPLATES["basic"])
    right = 0
    for start in range(0, min(most, len(samples)), 50):
        part = samples[start : start + 50]
        outputs = greedy_answers(loaded, [encode_prompt(loaded.tokenizer, prompt.ask(s)) for s in part], 16)
        right += sum(judge(s, o) == "correct" for s, o in zip(part, outputs, strict=True))
    return round(right / min(most, len(samples)), 3)
