"""What a model answers on test questions → ``evaluations`` and metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from gradstore import runs
from gradstore.batching import plan_batches
from gradstore.evaluation import refusal_rates, shares, ths
from gradstore.identity import row_id
from gradstore.judging import judge
from gradstore.models.adapters import load_adapter
from gradstore.models.answering import greedy_answers
from gradstore.models.encoding import encode_prompt
from gradstore.models.loading import LoadedModel
from gradstore.pipelines import ModelOptions, Progress, silent
from gradstore.pipelines.model import load, special_tokens
from gradstore.pipelines.work import make_prompt, read_samples, write_prompts
from gradstore.prompts import Prompt, Sample
from gradstore.schemas import TABLES
from gradstore.store import GradientStore


def evaluate(
    store: GradientStore,
    name: str,
    options: ModelOptions,
    *,
    adapter: str | Path | None = None,
    template: str = "refuse",
    role: str = "test",
    max_new_tokens: int = 32,
    progress: Progress = silent,
) -> dict[str, float]:
    """Ask every sample of ``role`` greedily and judge it; stored under ``name``, again asked for again replaced.

    An initial model is evaluated with template ``basic``, a tuned one with ``refuse`` (CRaFT §4.1). Returns shares.
    """
    samples = read_samples(store, role)
    loaded = load(options)
    if adapter is not None:
        loaded.model = load_adapter(loaded.model, Path(adapter)).eval()
    prompt = make_prompt(store, template, loaded.chat_template, special_tokens(loaded))
    write_prompts(store, [prompt])
    settings = {"name": name, "model": options.model, "adapter": str(adapter) if adapter else None, "role": role}
    run = runs.begin(store, "evaluate", {**settings, "template": template}, ["samples"])
    outputs = answer_all(loaded, prompt, samples, max_new_tokens, options.tokens, progress)
    rows = [
        {
            "row_id": row_id(name, i),
            "evaluation": name,
            "sample_id": i,
            "model_id": loaded.model_id,
            "prompt_id": prompt.prompt_id,
            "output": text,
            "verdict": judge(samples[i], text, [prompt.refusal_text]),
        }
        for i, text in sorted(outputs.items())
    ]
    store.delete("evaluations", "evaluation = '" + name.replace("'", "''") + "'")
    store.write("evaluations", pa.Table.from_pylist(rows, schema=TABLES["evaluations"].schema))
    found = shares([r["verdict"] for r in rows])
    run.finish({"questions": len(rows)}, ["evaluations"])
    return found.as_dict()


def answer_all(
    loaded: LoadedModel,
    prompt: Prompt,
    samples: dict[str, Sample],
    max_new_tokens: int,
    batch_tokens: int,
    progress: Progress = silent,
) -> dict[str, str]:
    """Greedy outputs by sample id."""
    ids = {i: encode_prompt(loaded.tokenizer, prompt.ask(s)) for i, s in samples.items()}
    outputs: dict[str, str] = {}
    for batch in plan_batches({i: len(t) + max_new_tokens for i, t in ids.items()}, batch_tokens):
        outputs |= dict(zip(batch, greedy_answers(loaded, [ids[i] for i in batch], max_new_tokens), strict=True))
        progress("evaluate", len(outputs), len(samples))
    return outputs


def compare(store: GradientStore, initial: str, refined: str) -> dict[str, Any]:
    """Metrics of one evaluation against the initial model's, over the questions that both answered, joined by id."""
    frame = (
        _verdicts(store, initial)
        .join(_verdicts(store, refined), on="sample_id", how="inner", suffix="_refined")
        .join(store.scan("samples").select("sample_id", "exposure"), on="sample_id", how="left")
        .collect()
    )
    before, after = frame["verdict"].to_list(), frame["verdict_refined"].to_list()
    over, fixed = refusal_rates(before, after)
    refused = frame.group_by("exposure").agg((pl.col("verdict_refined") == "refused").mean().alias("refused"))
    by_exposure = {e or "unknown": r for e, r in refused.sort("exposure").iter_rows()}
    found = shares(after)
    return {
        **found.as_dict(),
        "ths": ths(found, shares(before)),
        "over_refusal": over,
        "hallucinations_fixed": fixed,
        "refused_by_exposure": by_exposure,
    }


def _verdicts(store: GradientStore, name: str) -> pl.LazyFrame:
    return store.scan("evaluations").filter(pl.col("evaluation") == name).select("sample_id", "verdict")
