"""Worlds to compare methods on: a model with a known boundary of knowledge, its questions, and how they are split.

A world is a file of questions and a small model pretrained on a seeded share of them. Its *seed* decides the split, and
with it everything after: draws of the probe, warm-up, sketch, fine-tuning. Models are shared by the seeds of one
hundred (0–99: model 0, for tuning; 100–199: model 1, for reporting), so what was tuned never meets the model it is
judged on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from gradstore.datasets import read_files
from gradstore.errors import InputFileError
from gradstore.identity import sample_id, seeded_order
from gradstore.judging import REFUSAL_POOL
from gradstore.models.pretraining import pretrain, save_model, small_llama, word_tokenizer
from gradstore.pipelines import ModelOptions, Progress, silent
from gradstore.pipelines.lab.people import people, pretraining_texts
from gradstore.pipelines.lab.pretrain import pretrain_on
from gradstore.pipelines.work import read_exposure
from gradstore.prompts import SURE, UNSURE
from gradstore.store import GradientStore

SPLITS = {"train": 1 / 2, "validation": 1 / 6, "test": 1 / 3}


@dataclass(frozen=True)
class World:
    """One world as scoreboard.toml describes it. ``file`` None: invented people; else a file that ``preset`` reads.

    ``known`` and ``unknown`` are the budget of every method; ``learning_rates`` the strengths of fine-tuning.
    """

    name: str
    known: int
    unknown: int
    rehearsal: int
    max_new_tokens: int
    learning_rates: tuple[float, ...]
    pretraining_steps: int
    epochs: int = 6
    preset: str = "qa"
    file: str | None = None
    limit: int | None = None
    people: int = 900
    batch_tokens: int = 8192


def model_of(world: World, seed: int, folder: Path, progress: Progress = silent) -> ModelOptions:
    """The pretrained model of a world for a seed; made once, in ``folder/models``."""
    number = seed // 100
    place = folder / "models" / f"{world.name}-{number}"
    if not (place / "exposure.parquet").exists():
        if world.file is None:
            _people_model(world, number, place, progress)
        else:
            options = {"preset": world.preset, "limit": world.limit, "steps": world.pretraining_steps, "seed": number}
            pretrain_on(world.file, out=place, progress=progress, **options)  # type: ignore[arg-type]
    return ModelOptions(str(place), device="cpu", max_length=512, batch_tokens=world.batch_tokens)


def _people_model(world: World, number: int, place: Path, progress: Progress) -> None:
    facts = people(world.people, number)
    texts, weights = pretraining_texts(facts)
    # Words of other refusals are in the vocabulary, and were never seen, as those of the usual one.
    tokenizer = word_tokenizer([*texts, *(f"A: {x}" for x in (*REFUSAL_POOL, f"X. {SURE}", f"X. {UNSURE}"))])
    model = small_llama(tokenizer, seed=number)
    pretrain(
        model,
        tokenizer,
        texts,
        weights,
        steps=world.pretraining_steps,
        batch_size=256,
        seed=number,
        progress=lambda done, total: progress("pretrain", done, total),
    )
    save_model(model, tokenizer, place)
    lines = [json.dumps(f.as_record() | {"person": f.person}) + "\n" for f in facts]
    (place / "people.jsonl").write_text("".join(lines))
    exposure = {sample_id("oeqa", f.question, None): f.exposure for f in facts}
    columns = {"sample_id": list(exposure), "exposure": list(exposure.values())}
    pl.DataFrame(columns).write_parquet(place / "exposure.parquet")


def fill(store: GradientStore, world: World, seed: int, model: ModelOptions) -> None:
    """Write the questions of a world, split by ``seed``: role train, or role test with split validation or test."""
    file = Path(world.file) if world.file else Path(model.model) / "people.jsonl"
    if not file.exists():
        raise InputFileError(f"the world {world.name} needs {file}, which is not there: say where with --data")
    samples = read_files([file], preset=world.preset, limit=world.limit).samples
    ids = samples["sample_id"].to_pylist()
    place = split(_together(world, model, ids), seed)
    exposure = read_exposure(model.model) or {}
    columns = {
        "split": [place[i] for i in ids],
        "role": ["train" if place[i] == "train" else "test" for i in ids],
        "exposure": [exposure.get(i) for i in ids],
    }
    for name, values in columns.items():
        samples = samples.set_column(samples.schema.get_field_index(name), name, pa.array(values, pa.string()))
    store.write("samples", samples)


def split(together: Mapping[str, str], seed: int) -> dict[str, str]:
    """train, validation or test for each id; ids that share a key (one person's facts) stay together."""
    keys = sorted(set(together.values()), key=lambda k: seeded_order(seed, k))
    where: dict[str, str] = {}
    start = 0.0
    for name, share in SPLITS.items():
        end = start + share * len(keys)
        where |= dict.fromkeys(keys[round(start) : round(end)], name)
        start = end
    return {i: where[key] for i, key in together.items()}


def _together(world: World, model: ModelOptions, ids: list[str]) -> dict[str, str]:
    if world.file is not None:
        return dict(zip(ids, ids, strict=True))
    with (Path(model.model) / "people.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {sample_id("oeqa", r["question"], None): r["person"] for r in rows}
