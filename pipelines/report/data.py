"""What a report shows, read from a store: one selection, the candidates with their numbers, and runs. No torch.

Whatever a store lacks is None or empty here; the report says what is missing and which command makes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from gradstore.errors import StoreError
from gradstore.pipelines.work import initial_probes
from gradstore.report.influence import MARKS
from gradstore.report.knowledge import SIDES
from gradstore.selection import KNOWN, UNKNOWN, split
from gradstore.store import GradientStore

THRESHOLD = 0.5  # of a store without a selection
PICKED = ["sample_id", "response", "knowledge", "rank", "score", "i_ref", "i_over", "reason", "weight"]


@dataclass(frozen=True)
class Chosen:
    """One selection: its rows (one a candidate), and the settings of the run that made it ({} if that is unknown)."""

    name: str
    rows: pl.DataFrame
    settings: Mapping[str, Any]

    @property
    def threshold(self) -> float:
        return float(self.settings.get("threshold", THRESHOLD))


@dataclass(frozen=True)
class Influences:
    """sample_id, i_ref, i_over; and a remark on where they come from, if that is not the selection shown."""

    frame: pl.DataFrame
    note: str = ""


@dataclass
class Gathered:
    """All that a report is drawn from, and remarks that belong in it."""

    store: GradientStore
    chosen: Chosen | None
    selections: list[str]
    runs: list[dict[str, Any]]
    points: pl.DataFrame = field(default_factory=pl.DataFrame)
    influences: Influences | None = None
    remarks: list[str] = field(default_factory=list)


def gather(store: GradientStore, name: str | None = None) -> Gathered:
    """Read the selection ``name``, by default the only one, and the candidates.

    Raises StoreError where there is no selection of that name.
    """
    names = store.scan("selections").select("selection").unique().sort("selection").collect()["selection"].to_list()
    if name is not None and name not in names:
        there = f"there are {', '.join(names)}" if names else f"`gradstore select {store.uri} --name {name}` makes one"
        raise StoreError(f"no selection {name!r} in {store.uri}: {there}")
    runs = read_runs(store)
    if name is None and len(names) == 1:
        name = names[0]
    found = Gathered(store, _chosen(store, name, runs) if name else None, names, runs)
    if len(names) > 1 and name is None:
        found.remarks.append(f"The store holds {len(names)} selections, none is shown: name one of {', '.join(names)}.")
    found.influences = _influences(found)
    found.points = _points(found)
    return found


def read_runs(store: GradientStore) -> list[dict[str, Any]]:
    """Every run in the order in which they started, with its JSON columns read."""
    rows = store.scan("runs").sort("started_at", "run_id").collect().to_dicts()
    parsed = ("settings", "counts", "libraries")
    return [{**r, **{k: json.loads(r[k] or "{}") for k in parsed}} for r in rows]


def probe_of(found: Gathered) -> str | None:
    """The probe that knowledge is read from: that of the selection, else the base model's first by id."""
    if found.chosen and "probe_id" in found.chosen.settings:
        return str(found.chosen.settings["probe_id"])
    probes = initial_probes(found.store)
    if len(probes) > 1:
        found.remarks.append(f"{len(probes)} probes of base models are stored; knowledge is that of the first by id.")
    return probes[0]["probe_id"] if probes else None


def _chosen(store: GradientStore, name: str, runs: list[dict[str, Any]]) -> Chosen:
    rows = store.scan("selections").filter(pl.col("selection") == name).sort("sample_id").collect()
    identity = rows["selection_id"][0]
    made = [r for r in runs if r["stage"] == "select" and r["settings"].get("selection_id") == identity]
    return Chosen(name, rows.select(PICKED), made[-1]["settings"] if made else {})


def _influences(found: Gathered) -> Influences | None:
    """The selection's own; else those of the newest selection run that computed any, with a remark."""
    if found.chosen and found.chosen.rows["i_ref"].null_count() < found.chosen.rows.height:
        return Influences(found.chosen.rows.select("sample_id", "i_ref", "i_over"))
    made = [r for r in found.runs if r["stage"] == "select" and r["status"] == "finished" and r["settings"]["groups"]]
    if not made:
        return None
    settings = made[-1]["settings"]
    groups, checkpoints = settings["groups"], json.dumps(settings["checkpoints"], sort_keys=True)
    frame = (
        found.store.scan("influence")
        .filter(
            pl.col("recipe_id") == settings["recipe_id"],
            pl.col("checkpoints") == checkpoints,
            pl.col("group_id").is_in([groups[UNKNOWN], groups[KNOWN]]),
        )
        .select("sample_id", "group_id", "score")
        .collect()
    )
    sides = [
        frame.filter(pl.col("group_id") == groups[side]).select("sample_id", pl.col("score").alias(column))
        for side, column in ((UNKNOWN, "i_ref"), (KNOWN, "i_over"))
    ]
    both = sides[0].join(sides[1], on="sample_id", how="inner").sort("sample_id")
    note = f"Scores were computed for selection {settings['name']}." if both.height else ""
    return Influences(both, note) if both.height else None


def _points(found: Gathered) -> pl.DataFrame:
    """One row a training sample: texts, subject, probe, side, mark, rank, weight, influences; sorted by id."""
    store, chosen = found.store, found.chosen
    samples = store.scan("samples").filter(pl.col("role") == "train")
    frame = samples.select("sample_id", "question", "answer", "subject").collect().sort("sample_id")
    probed = store.scan("probes").filter(pl.col("probe_id") == (probe_of(found) or ""))
    columns = ["sample_id", "correctness", "certainty", pl.col("status").alias("probe_status")]
    frame = frame.join(probed.select(columns).collect(), on="sample_id", how="left")
    side = split(pl.col("correctness"), THRESHOLD, KNOWN)
    if chosen:
        frame = frame.join(chosen.rows.drop("i_ref", "i_over"), on="sample_id", how="left")
        side = pl.col("knowledge")
    else:
        empty = {"response": pl.String, "rank": pl.Int32, "weight": pl.Float64, "reason": pl.String}
        frame = frame.with_columns(pl.lit(None, kind).alias(name) for name, kind in empty.items())
    probed_ok = pl.col("probe_status") == "ok"
    mark = pl.col("response").replace_strict({"answer": MARKS[0], "refusal": MARKS[1]}, default=MARKS[2])
    frame = frame.with_columns(
        side=pl.when(probed_ok).then(pl.coalesce(side, pl.lit(SIDES[2]))).otherwise(None), mark=mark
    )
    scores = found.influences.frame if found.influences else pl.DataFrame(schema={"sample_id": pl.String})
    frame = frame.join(scores, on="sample_id", how="left")
    missing = [pl.lit(None, pl.Float64).alias(c) for c in ("i_ref", "i_over") if c not in frame.columns]
    return frame.with_columns(missing).sort("sample_id")
