"""What every model stage shares: which rows are wanted, which are there, and the plan between the two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa

from gradstore.batching import group_commits, plan_batches
from gradstore.errors import InputFileError, ProvenanceError, StoreError
from gradstore.identity import seeded_order
from gradstore.prompts import REFUSAL_TEXT, Prompt, Sample, template
from gradstore.schemas import TABLES
from gradstore.store import GradientStore

SAMPLE_COLUMNS = ["sample_id", "task", "question", "choices", "answer", "aliases", "subject", "source"]


def read_samples(store: GradientStore, role: str, version: int | None = None) -> dict[str, Sample]:
    """The samples of a role, by id, sorted by id. Raises StoreError where there are none."""
    frame = store.scan("samples", version=version).filter(pl.col("role") == role)
    rows = frame.select(SAMPLE_COLUMNS).sort("sample_id").collect()
    if rows.height == 0:
        raise StoreError(f"no samples of role {role} in {store.uri}: `gradstore ingest {store.uri} FILE --role {role}`")
    return {r["sample_id"]: r for r in rows.iter_rows(named=True)}


def make_prompt(
    store: GradientStore, name: str, chat_template: str | None, tokens: Mapping[str, str | None], shots: int = 0
) -> Prompt:
    """The prompt of a stage, with ``shots`` demos a task drawn by seeded hash from the samples of role demo."""
    return Prompt(
        template=template(name),
        chat_template=chat_template,
        refusal_text=REFUSAL_TEXT,
        demos=tuple(_demos(store, shots)) if shots else (),
        bos_token=tokens.get("bos_token"),
        eos_token=tokens.get("eos_token"),
    )


def write_prompts(store: GradientStore, prompts: Sequence[Prompt]) -> None:
    """Record prompts, so that an export needs neither model nor tokenizer."""
    rows = [p.as_row() for p in prompts]
    store.write("prompts", pa.Table.from_pylist(rows, schema=TABLES["prompts"].schema))


def pending(
    lengths: Mapping[str, int],
    keys: Mapping[str, Sequence[str]],
    stored_then: set[str],
    stored_now: set[str],
    batch_tokens: int,
    copies: int = 1,
) -> Iterator[list[list[str]]]:
    """The commits that are still to be done, each a list of batches of sample ids.

    The plan is made from what was missing when the run *started* (``stored_then``), so that a resumed run has the
    same batches; commits whose rows (``keys`` of each id) are all stored by now are left out.
    """
    wanted = {i: n for i, n in lengths.items() if not stored_then.issuperset(keys[i])}
    for commit in group_commits(plan_batches(wanted, batch_tokens, copies)):
        if not all(stored_now.issuperset(keys[i]) for batch in commit for i in batch):
            yield commit


def initial_probe(store: GradientStore, probe_id: str | None = None, model_id: str | None = None) -> dict[str, str]:
    """The probe of a base model that later stages start from: probe_id and model_id.

    Raises StoreError where nothing is probed, ProvenanceError where the choice is not unique or is of another model.
    """
    found = initial_probes(store)
    if not found:
        raise StoreError(f"nothing is probed in {store.uri}: run `gradstore probe {store.uri} --model M` first")
    named = [p for p in found if probe_id in (None, p["probe_id"])]
    if not named:
        raise ProvenanceError(f"no probe {probe_id}: there are {', '.join(p['probe_id'] for p in found)}")
    if model_id is not None:
        check_probed(store, model_id)
        named = [p for p in named if p["model_id"] == model_id]
    if len(named) != 1:
        listed = ", ".join(f"{p['probe_id']} of model {p['model_id']}" for p in found)
        raise ProvenanceError(f"{len(named)} probes fit, expected one; stored are {listed}: name one with --probe")
    return named[0]


def initial_probes(store: GradientStore) -> list[dict[str, str]]:
    """Every probe of a base model: probe_id, model_id, prompt_id."""
    probes = store.scan("probes").filter(pl.col("checkpoint_id").is_null())
    return probes.select("probe_id", "model_id", "prompt_id").unique().sort("probe_id").collect().to_dicts()


def check_probed(store: GradientStore, model_id: str) -> None:
    """Refuse a model other than those probed, before hours go into rows that no selection could use."""
    models = sorted({p["model_id"] for p in initial_probes(store)})
    if models and model_id not in models:
        raise ProvenanceError(
            f"the probe in {store.uri} is of model {', '.join(models)}, this one is {model_id}: use the probed model, "
            f"or probe this one with `gradstore probe {store.uri} --model …`"
        )


def knowledge(store: GradientStore, probe_id: str) -> pl.DataFrame:
    """sample_id, correctness, certainty, probe_status of one probe."""
    probed = store.scan("probes").filter(pl.col("probe_id") == probe_id)
    return probed.select("sample_id", "correctness", "certainty", pl.col("status").alias("probe_status")).collect()


def read_exposure(model: str) -> dict[str, str] | None:
    """Which samples a lab model saw how often, written beside it by ``gradstore lab``; None for other models."""
    path = Path(model) / "exposure.parquet"
    if not path.exists():
        return None
    frame = pl.read_parquet(path)
    if frame.columns != ["sample_id", "exposure"]:
        raise InputFileError(f"{path} has columns {frame.columns}, expected sample_id, exposure")
    return dict(frame.iter_rows())


def work_folder(uri: str | Path, work: str | Path | None) -> Path:
    """Where adapters go: ``work``, else ``<store>.work`` beside a local store, else ``gradstore.work`` here."""
    if work is not None:
        return Path(work)
    return Path("gradstore.work") if "://" in str(uri) else Path(str(uri).rstrip("/") + ".work")


def _demos(store: GradientStore, shots: int) -> list[Sample]:
    found = read_samples(store, "demo")
    chosen = []
    for task in sorted({s["task"] for s in found.values()}):
        ids = sorted((i for i, s in found.items() if s["task"] == task), key=lambda i: seeded_order(0, i))
        if len(ids) < shots:
            raise StoreError(f"{shots} shots were asked for, {len(ids)} {task} samples have role demo: ingest more")
        chosen += [found[i] for i in ids[:shots]]
    return chosen
