"""What a model answers on test questions → ``evaluations``. What the answers amount to is in :mod:`.metrics`.

torch is imported only where a model is asked, so that stored evaluations are compared without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from gradstore import runs
from gradstore.batching import plan_batches
from gradstore.errors import StoreError
from gradstore.evaluation import refusal_rates, shares, ths
from gradstore.identity import row_id
from gradstore.judging import UNPARSED, judge, judge_reference
from gradstore.pipelines import ModelOptions, Progress, silent, unsaid
from gradstore.pipelines.work import SAMPLE_COLUMNS, make_prompt, read_samples, write_prompts
from gradstore.prompts import Prompt, Sample
from gradstore.schemas import TABLES
from gradstore.store import GradientStore

if TYPE_CHECKING:
    from gradstore.models.loading import LoadedModel


def evaluate(
    store: GradientStore,
    name: str,
    options: ModelOptions,
    *,
    adapter: str | Path | None = None,
    template: str = "refuse",
    role: str = "test",
    questions: Mapping[str, str] | None = None,
    selection: str | None = None,
    refusal_texts: Sequence[str] = (),
    max_new_tokens: int = 32,
    progress: Progress = silent,
    tell: Callable[[str], None] = unsaid,
) -> dict[str, float]:
    """Ask every sample of ``role`` greedily and judge it; stored under ``name``, again asked for again replaced.

    An initial model is evaluated with template ``basic``, a tuned one with ``refuse`` (CRaFT §4.1). ``questions``,
    sample id → id | ood, asks those instead, whatever their role. ``selection`` is what the adapter was trained on,
    where it is no registered checkpoint. ``refusal_texts`` refuse beside the prompt's own. Returns shares.
    """
    from gradstore.pipelines.model import load, special_tokens

    samples = read_samples(store, role) if questions is None else _named(store, questions)
    trained = trained_ids(store, adapter, selection)
    loaded = load(options)
    if adapter is not None:
        from gradstore.models.adapters import load_adapter

        loaded.model = load_adapter(loaded.model, Path(adapter)).eval()
    prompt = make_prompt(store, template, loaded.chat_template, special_tokens(loaded))
    write_prompts(store, [prompt])
    settings: dict[str, Any] = {
        "name": name,
        "model": options.model,
        "adapter": str(adapter) if adapter else None,
        "role": role,
    }
    settings |= {"template": template, "questions": len(samples), "selection": selection}
    with runs.begin(store, "evaluate", settings, ["samples"]) as run:
        said = answers_with_confidence(loaded, prompt, samples, max_new_tokens, options.tokens, progress)
        refusals = [prompt.refusal_text, *refusal_texts]
        common = {"evaluation": name, "model_id": loaded.model_id, "prompt_id": prompt.prompt_id}
        rows = [
            {
                **common,
                **_judged(samples[i], *said[i], refusals),
                "row_id": row_id(name, i),
                "trained_on": None if trained is None else i in trained,
                "distribution": (questions or {}).get(i),
            }
            for i in sorted(said)
        ]
        _replace(store, name, rows)
        run.finish({"questions": len(rows)}, ["evaluations"])
    for remark in remarks(store, name, trained is None and adapter is not None):
        tell(remark)
    return shares([r["verdict"] for r in rows]).as_dict()


def answers_with_confidence(
    loaded: LoadedModel,
    prompt: Prompt,
    samples: Mapping[str, Sample],
    max_new_tokens: int,
    batch_tokens: int,
    progress: Progress = silent,
) -> dict[str, tuple[str, float]]:
    """Greedy outputs by sample id, each with the geometric mean of its tokens' probabilities."""
    from gradstore.models.answering import greedy_answers_with_confidence
    from gradstore.models.encoding import encode_prompt

    ids = {i: encode_prompt(loaded.tokenizer, prompt.ask(s)) for i, s in samples.items()}
    outputs: dict[str, tuple[str, float]] = {}
    for batch in plan_batches({i: len(t) + max_new_tokens for i, t in ids.items()}, batch_tokens):
        said = greedy_answers_with_confidence(loaded, [ids[i] for i in batch], max_new_tokens)
        outputs |= dict(zip(batch, said, strict=True))
        progress("evaluate", len(outputs), len(samples))
    return outputs


def trained_ids(store: GradientStore, adapter: str | Path | None, selection: str | None) -> set[str] | None:
    """The samples that a model is known to be trained on: those of ``selection``, and those recorded with the
    checkpoint that ``adapter`` is; None where neither is known. Raises StoreError where there is no such selection."""
    found: list[str] | None = None
    if selection is not None:
        chosen = store.scan("selections").filter(pl.col("selection") == selection).collect()
        if chosen.height == 0:
            names = store.scan("selections").select("selection").unique().sort("selection").collect()["selection"]
            raise StoreError(f"no selection {selection!r} in {store.uri}: there are {', '.join(names) or 'none'}")
        found = chosen.filter(pl.col("rank").is_not_null())["sample_id"].to_list()
    if adapter is not None and (Path(adapter) / "checkpoint.json").exists():
        from gradstore.models.checkpoints import read_checkpoint

        registered = pl.col("checkpoint_id") == read_checkpoint(adapter).checkpoint_id
        recorded = store.scan("checkpoints").filter(registered).select("training_ids").collect()["training_ids"]
        if recorded.null_count() < len(recorded):
            found = [*(found or []), *recorded[0]]
    return None if found is None else set(found)


def remarks(store: GradientStore, name: str, training_unknown: bool = False) -> list[str]:
    """What whoever reads the numbers of an evaluation should know first, a line each."""
    frame = store.scan("evaluations").filter(pl.col("evaluation") == name)
    roles = store.scan("samples").select("sample_id", "role")
    rows = frame.join(roles, on="sample_id", how="left").collect()
    n, found = rows.height, []
    look = f"look at them: gradstore query {store.uri} \"SELECT output FROM evaluations WHERE evaluation = '{name}'\""
    if (rows["output"] == "").all():
        found.append(f"all {n} outputs are empty, so these numbers say nothing of what the model knows: {look}")
    elif (rows["verdict"] == UNPARSED).all():
        found.append(f"none of the {n} outputs could be read as one of the options: {look}")
    if trained := int(rows["trained_on"].sum()):
        found.append(
            f"{trained} of the {n} questions are among those the adapter was trained on: they are no test of it "
            "(evaluations.trained_on)"
        )
    if training_unknown and (seen := int((rows["role"] == "train").sum())):
        found.append(
            f"{seen} of the {n} questions are training samples of this store; whether this adapter was trained on them "
            "is not known: name its selection with --selection"
        )
    return found


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


def quoted(name: str) -> str:
    """A name as a string of SQL."""
    return "'" + name.replace("'", "''") + "'"


def _judged(sample: Sample, text: str, confidence: float, refusals: Sequence[str]) -> dict[str, Any]:
    return {
        "sample_id": sample["sample_id"],
        "output": text,
        "verdict": judge(sample, text, refusals),
        "verdict_reference": judge_reference(sample, text),
        "confidence": confidence if confidence == confidence else None,  # a NaN is a number that is not there
    }


def _named(store: GradientStore, questions: Mapping[str, str]) -> dict[str, Sample]:
    rows = store.scan("samples").select(SAMPLE_COLUMNS).sort("sample_id").collect()
    return {r["sample_id"]: r for r in rows.iter_rows(named=True) if r["sample_id"] in questions}


def _replace(store: GradientStore, name: str, rows: list[dict[str, Any]]) -> None:
    """Write an evaluation in place of the one of that name; numbers made from the old one go with it."""
    store.delete("metrics", f"evaluation = {quoted(name)} OR against = {quoted(name)}")
    store.delete("evaluations", f"evaluation = {quoted(name)}")
    store.write("evaluations", pa.Table.from_pylist(rows, schema=TABLES["evaluations"].schema))


def _verdicts(store: GradientStore, name: str) -> pl.LazyFrame:
    return store.scan("evaluations").filter(pl.col("evaluation") == name).select("sample_id", "verdict")
