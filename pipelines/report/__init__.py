"""A store and a selection as pictures: ``figures`` for whoever draws them, ``report`` as one HTML file. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from gradstore.pipelines.report import facts as report_facts
from gradstore.pipelines.report import gradients as report_gradients
from gradstore.pipelines.report.data import Gathered, gather
from gradstore.pipelines.report.sections import sections
from gradstore.report.commands import commands
from gradstore.report.page import Page, png, render
from gradstore.store import GradientStore


def report(store: GradientStore, name: str | None = None) -> str:
    """The report as one HTML file that requests nothing; the same store gives the same bytes.

    ``name``: the selection, by default the only one; without a selection the page shows the store. What the store
    lacks is said, with the command that makes it. Raises StoreError where there is no selection of that name.
    """
    found = gather(store, name)
    return render(page(found))


def figures(store: GradientStore, name: str | None = None) -> dict[str, dict[str, Any]]:
    """Every figure that the store has data for, in page order: key → Vega-Lite JSON with ``usermeta`` title, caption.

    ``name`` as in :func:`report`. Points of ``knowledge_map`` and ``influence`` (the named data ``points``) carry
    sample_id; ``influence`` has the interval parameter ``brush``.
    """
    return {s.key: dict(s.figure) for s in sections(gather(store, name)) if s.figure}


def write_pngs(store: GradientStore, name: str | None, folder: Path) -> list[Path]:
    """Each figure as ``<key>.png`` in ``folder``, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for key, figure in figures(store, name).items():
        paths.append(folder / f"{key}.png")
        paths[-1].write_bytes(png(figure))
    return paths


def page(found: Gathered) -> Page:
    """All of a report, before it is HTML."""
    drawn = sections(found)
    gradients = report_gradients.statuses(found)
    checkpoints = found.store.scan("checkpoints").select("checkpoint_id", "name").collect()
    rehearsed = found.store.scan("probes").filter(pl.col("checkpoint_id").is_not_null())
    probes = dict(rehearsed.select("probe_id", "checkpoint_id").unique().collect().iter_rows())
    selection = found.chosen.name if found.chosen else None
    return Page(
        store=found.store.uri,
        selection=selection,
        facts=report_facts.facts(found, gradients),
        remarks=report_facts.warnings(found, gradients),
        sections=drawn,
        listings=report_facts.listings(found),
        commands=commands(found.store.uri, found.runs, selection, dict(checkpoints.iter_rows()), probes),
    )
