"""The words and tables of a report: numbers that come first, warnings, provenance. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from gradstore.pipelines.report.data import Chosen, Gathered
from gradstore.report.influence import MARKS
from gradstore.report.knowledge import SIDES
from gradstore.report.page import Fact, Listing
from gradstore.weighting import effective_size

FEW = 0.1  # an effective share of the refusals below this is worth a warning
RECIPE = ["feature", "loss_reduction", "sketch_kind", "sketch_dim", "sketch_seed", "max_length", "dtype", "attention"]


def facts(found: Gathered, gradients: pl.DataFrame) -> list[Fact]:
    """What the page begins with. ``gradients``: status, response, rows."""
    points = found.points
    tests = found.store.scan("samples").filter(pl.col("role") == "test").select(pl.len()).collect().item()
    probed = points.filter(pl.col("side").is_not_null())
    sides = dict(probed.group_by("side").len().iter_rows())
    listed = [Fact("Questions to train on", f"{points.height:,}", f"{tests:,} more to test on" if tests else "")]
    if probed.height:
        listed += [
            Fact(s.capitalize(), f"{sides.get(s, 0):,}", f"{_share(sides.get(s, 0), probed.height)} of the probed")
            for s in SIDES[:2]
        ]
    if found.chosen:
        marks = dict(points.group_by("mark").len().iter_rows())
        kept, refused = (marks.get(m, 0) for m in MARKS[:2])
        listed.append(Fact("Selected", f"{kept + refused:,}", f"{kept:,} keep their answer, {refused:,} refuse"))
        if refused:
            size = sizes(points)[MARKS[1]]
            listed.append(Fact("Effective sample size", f"{size:.1f}", f"of {refused:,} refusals"))
    total = int(gradients["rows"].sum())
    if total:
        ok = int(gradients.filter(pl.col("status") == "ok")["rows"].sum())
        listed.append(Fact("Gradient rows", f"{total:,}", f"{_share(ok, total)} of them ok"))
    return listed


def sizes(points: pl.DataFrame) -> dict[str, float]:
    """Mark → effective sample size (Kish) of its weights, for the marks that are selected."""
    picked = points.drop_nulls("weight").sort("mark")
    marks = picked.partition_by("mark", as_dict=True, maintain_order=True)
    return {str(mark): effective_size(part["weight"].to_numpy()) for (mark,), part in marks.items()}


def warnings(found: Gathered, gradients: pl.DataFrame) -> list[str]:
    """What a reader should know before believing the pictures."""
    said = list(found.remarks)
    points = found.points
    unfinished = [r["stage"] for r in found.runs if r["status"] == "started"]
    said += [f"A run of {stage} has not finished: the same command goes on with it." for stage in unfinished]
    unprobed, unsound = points["probe_status"].null_count(), (points["probe_status"] != "ok").sum()
    if unprobed and unprobed < points.height:
        said.append(f"{unprobed:,} of {points.height:,} questions are not probed.")
    if unsound:
        said.append(f"{unsound:,} probes have a status other than ok; their questions are in no picture.")
    bad = gradients.filter(pl.col("status") != "ok")["rows"].sum()
    if bad:
        said.append(f"{bad:,} of {gradients['rows'].sum():,} gradient rows are not ok.")
    return said + (_of_selection(points, found.chosen) if found.chosen else [])


def _of_selection(points: pl.DataFrame, chosen: Chosen) -> list[str]:
    settings, said = chosen.settings, []
    for side, mark in zip(SIDES[:2], MARKS[:2], strict=True):
        asked, got = settings.get(side), int((points["mark"] == mark).sum())
        if asked is not None and got < asked:
            said.append(f"{asked:,} {side} samples were asked for, {got:,} are selected.")
    later = points.height - chosen.rows.height
    if later > 0:
        said.append(f"{later:,} questions came after the selection was made, and were no candidates.")
    if not settings:
        said.append("The run that made this selection has not finished, or is not recorded: its settings are unknown.")
    known = points.filter(pl.col("mark") == MARKS[1], pl.col("side") == SIDES[0]).height
    if known:
        said.append(f"{known:,} of the questions to be refused are ones that the model knows.")
    refused = int((points["mark"] == MARKS[1]).sum())
    if refused and sizes(points)[MARKS[1]] < FEW * refused:
        said.append(f"Weight lies on few refusals: an effective {sizes(points)[MARKS[1]]:.1f} of {refused:,}.")
    return said


def listings(found: Gathered) -> list[Listing]:
    """Provenance: models, checkpoints, recipes, the selection's settings, reasons, runs, tables, libraries."""
    store = found.store
    listed = [_settings(found), _reasons(found), _models(found)]
    rates = store.scan("checkpoints").sort("step", "checkpoint_id").collect()
    rows = [
        [
            r["name"],
            r["checkpoint_id"],
            str(r["step"]),
            f"{r['learning_rate']:.3g}",
            f"{r['beta1']:g}, {r['beta2']:g}, {r['eps']:g}",
        ]
        for r in rates.iter_rows(named=True)
    ]
    listed.append(Listing("Checkpoints", ["name", "checkpoint_id", "step", "mean learning rate", "β₁, β₂, ε"], rows))
    recipes = store.scan("recipes").sort("recipe_id").collect()
    rows = [[r["recipe_id"], *(str(r[c]) for c in RECIPE)] for r in recipes.iter_rows(named=True)]
    listed.append(Listing("Recipes of gradients", ["recipe_id", *(c.replace("_", " ") for c in RECIPE)], rows))
    rows = [
        [r["stage"], r["status"], f"{r['started_at']:%Y-%m-%d %H:%M:%S} UTC", _counts(r["counts"]), r["run_id"]]
        for r in found.runs
    ]
    listed.append(Listing("Runs", ["stage", "status", "started", "counts", "run_id"], rows))
    versions, counted = store.versions(), store.row_counts()
    rows = [[name, str(version), f"{counted[name]:,}" if name in counted else ""] for name, version in versions.items()]
    listed.append(Listing("Tables", ["table", "version", "rows"], rows))
    listed.append(_libraries(found))
    return [listing for listing in listed if listing.rows]


def _settings(found: Gathered) -> Listing:
    settings: Mapping[str, Any] = found.chosen.settings if found.chosen else {}
    rows = [[name, _text(value)] for name, value in settings.items() if value not in (None, {}, False)]
    return Listing("Settings of the selection", ["setting", "value"], rows)


def _reasons(found: Gathered) -> Listing:
    if not found.chosen:
        return Listing("Candidates", [], [])
    counted = found.chosen.rows.group_by("knowledge", "reason").len().sort("knowledge", "reason", nulls_last=True)
    return Listing(
        "Candidates", ["side", "reason", "rows"], [[k or "–", r, f"{n:,}"] for k, r, n in counted.iter_rows()]
    )


def _models(found: Gathered) -> Listing:
    """The models that were probed, with the name that the probe was given."""
    probes = (
        found.store.scan("probes").select("model_id", "checkpoint_id", "probe_id").unique().sort("probe_id").collect()
    )
    named = {
        r["settings"].get("probe_id"): str(r["settings"].get("model", "")) for r in found.runs if r["stage"] == "probe"
    }
    rows = [[m, named.get(p, ""), c or "the base model", p] for m, c, p in probes.iter_rows()]
    return Listing("Models and probes", ["model_id", "given as", "checkpoint", "probe_id"], rows)


def _libraries(found: Gathered) -> Listing:
    """Every version of a library that a run had; several where they changed in between."""
    seen: dict[str, dict[str, None]] = {}
    for run in found.runs:
        for name, version in run["libraries"].items():
            seen.setdefault(name, {})[version] = None
    rows = [[name, ", ".join(versions)] for name, versions in sorted(seen.items())]
    return Listing("Libraries of the runs", ["library", "version"], rows)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _counts(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in counts.items() if isinstance(v, int | float | str))


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if part in (0, whole) or 0.01 <= part / whole <= 0.99 else f"{part / whole:.1%}"
