"""A selection → a dataset that a trainer reads. No torch: the prompt comes from its stored row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl

from gradstore import runs
from gradstore.errors import GradstoreError, StoreError
from gradstore.export import TARGETS, Example
from gradstore.pipelines.work import SAMPLE_COLUMNS
from gradstore.prompts import from_row
from gradstore.store import GradientStore


def export(store: GradientStore, name: str, to: str, out: str | Path) -> list[Path]:
    """Write the selection ``name`` for the trainer ``to`` under ``out``; returns the files written."""
    if to not in TARGETS:
        raise GradstoreError(f"no target {to!r}: there are {', '.join(TARGETS)}")
    rows = read_selection(store, name)
    examples = make_examples(store, rows)
    versions = store.versions(["samples", "probes", "selections", "groups", "influence"])
    provenance = {
        "selection": name,
        "selection_id": rows["selection_id"][0],
        "prompt_id": rows["prompt_id"][0],
        "settings": settings_of(store, rows["selection_id"][0]),
        "store_versions": versions,
    }
    asked = {"selection": name, "to": to, "selection_id": rows["selection_id"][0]}
    with runs.begin(store, "export", asked, versions) as run:
        paths = TARGETS[to](examples, Path(out), provenance)
        run.finish({"rows": len(examples)}, [])
    return paths


def read_selection(store: GradientStore, name: str) -> pl.DataFrame:
    """The selected rows of a selection, in order of side and rank. Raises StoreError where there are none."""
    all_rows = store.scan("selections")
    rows = all_rows.filter(pl.col("selection") == name, pl.col("rank").is_not_null()).collect()
    if rows.height == 0:
        names = all_rows.select("selection").unique().sort("selection").collect()["selection"].to_list()
        raise StoreError(f"no selection {name!r} in {store.uri}: there are {', '.join(names) or 'none yet'}")
    return rows.sort("response", "rank")


def make_examples(store: GradientStore, rows: pl.DataFrame) -> list[Example]:
    """Each selected row as the prompt and completion that its gradient was taken of."""
    found = store.scan("samples").filter(pl.col("sample_id").is_in(rows["sample_id"].to_list()))
    samples = {r["sample_id"]: r for r in found.select(SAMPLE_COLUMNS).collect().iter_rows(named=True)}
    stored = store.scan("prompts").filter(pl.col("prompt_id") == rows["prompt_id"][0]).collect().row(0, named=True)
    demos = store.scan("samples").filter(pl.col("sample_id").is_in(stored["demos"])).select(SAMPLE_COLUMNS).collect()
    prompt = from_row(stored, list(demos.iter_rows(named=True)))
    return [
        Example(
            sample_id=r["sample_id"],
            group="known" if r["response"] == "answer" else "unknown",
            prompt=prompt.ask(samples[r["sample_id"]]),
            completion=prompt.reply(samples[r["sample_id"]], r["target_text"]),
            weight=r["weight"],
        )
        for r in rows.iter_rows(named=True)
    ]


def settings_of(store: GradientStore, selection_id: str) -> dict[str, Any]:
    """The settings of the run that made the selection. Raises StoreError where that run did not finish."""
    finished = store.scan("runs").filter(pl.col("stage") == "select", pl.col("status") == "finished")
    for text in finished.select("settings").collect()["settings"]:
        if json.loads(text)["selection_id"] == selection_id:
            return json.loads(text)
    raise StoreError("this selection was not written to its end: run the same `gradstore select` again")
