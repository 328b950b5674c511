"""The sections of a report in page order: what each picture is drawn from, how to read it, what it lacks. No torch."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl

from gradstore.errors import GradstoreError
from gradstore.pipelines.diagnose import flow
from gradstore.pipelines.report import facts as report_facts
from gradstore.pipelines.report import gradients as report_gradients
from gradstore.pipelines.report.data import THRESHOLD, Gathered, probe_of
from gradstore.pipelines.sources import Sources
from gradstore.report import coverage, health, influence, knowledge, subjects, weights
from gradstore.report.page import Section

Figure = dict[str, Any]
POINT = ["sample_id", "question", "answer"]
SELECT = "gradstore select {store} --method grait --name NAME"
MISSING = {  # what a store may lack: in words, and the command that makes it
    "questions": ("The store has no questions to train on.", "gradstore ingest {store} FILE --preset PRESET"),
    "probe": ("No question is probed.", "gradstore probe {store} --model MODEL"),
    "rehearsal": (
        "Nothing is probed after rehearsal.",
        "gradstore probe {store} --model MODEL --checkpoint WARMUP/epoch-N",
    ),
    "influence": ("No influence is stored.", SELECT),
    "selection": ("There is no selection.", SELECT),
    "choice": ("There are several selections, and none is shown.", "gradstore report {store} NAME"),
    "refusals": ("The selection refuses no question.", SELECT),
    "subjects": ("No probed question has a subject.", ""),
    "gradients": ("No gradients are stored.", "gradstore extract {store} --model MODEL --checkpoint WARMUP"),
    "rest": ("No unknown question with a gradient is left out, so there is none to compare.", ""),
}


@dataclass(frozen=True)
class Kind:
    """A picture: ``draw`` gives its Vega-Lite JSON, or the key of ``MISSING`` that says why there is none."""

    key: str
    title: str
    text: str
    draw: Callable[[Gathered], Figure | str]


def sections(found: Gathered) -> list[Section]:
    """Every section; one without a figure says what is missing."""
    if found.points.height == 0:
        return [_lacking(Section("questions", "Questions", ""), "questions", found)]
    made = []
    for kind in KINDS:
        section, drawn = Section(kind.key, kind.title, kind.text), kind.draw(found)
        if isinstance(drawn, str):
            made.append(_lacking(section, drawn, found))
        else:
            made.append(Section(kind.key, kind.title, kind.text, drawn))
    return made


def _lacking(section: Section, what: str, found: Gathered) -> Section:
    says, command = MISSING["choice" if what == "selection" and found.selections else what]
    command = command.format(store=shlex.quote(found.store.uri))
    return Section(section.key, section.title, section.text, missing=says, command=command)


def _probed(found: Gathered) -> pl.DataFrame:
    return found.points.filter(pl.col("side").is_not_null())


def _map(found: Gathered) -> Figure | str:
    points = _probed(found).select(*POINT, "correctness", "certainty", "side").drop_nulls(["correctness", "certainty"])
    threshold = found.chosen.threshold if found.chosen else THRESHOLD
    return knowledge.knowledge_map(points, threshold) if points.height else "probe"


def _flow(found: Gathered) -> Figure | str:
    threshold = found.chosen.threshold if found.chosen else THRESHOLD
    try:
        return knowledge.knowledge_flow(flow(found.store, Sources(probe=probe_of(found)), threshold))
    except GradstoreError as error:
        if "name one" in str(error):  # several probes after rehearsal, and no telling which is meant
            found.remarks.append(f"The flow in rehearsal is not shown: {error}")
        return "rehearsal"


def _influence(found: Gathered) -> Figure | str:
    if not found.influences:
        return "influence"
    columns = [*POINT, "correctness", "i_ref", "i_over", "weight", "side", "mark"]
    return influence.influence(found.points.select(columns), found.influences.note)


def _weights(found: Gathered) -> Figure | str:
    picked = found.points.drop_nulls("weight").select("sample_id", "question", "weight", "mark")
    return weights.weights(picked, report_facts.sizes(found.points)) if picked.height else "selection"


def _subjects(found: Gathered) -> Figure | str:
    points = _probed(found).select("subject", "side", "mark")
    return subjects.subjects(points) if points["subject"].null_count() < points.height else "subjects"


def _coverage(found: Gathered) -> Figure | str:
    if not found.chosen:
        return "selection"
    if not found.store.recipe_ids():
        return "gradients"
    if not (found.chosen.rows["response"] == "refusal").any():
        return "refusals"
    covered = report_gradients.covered(found)
    return coverage.coverage(covered.nearest, covered.numbers, covered.note) if covered else "rest"


def _norms(found: Gathered) -> Figure | str:
    rows = report_gradients.norms(found)
    return health.norms(rows) if rows.height else "gradients"


def _statuses(found: Gathered) -> Figure | str:
    counts = report_gradients.statuses(found)
    return health.statuses(counts) if counts.height else "gradients"


KINDS = (
    Kind(
        "knowledge_map",
        "Knowledge map",
        "Each mark is a question: how often the model answers it correctly, and how certain it is. Wrong and certain, "
        "at the top left, is where it makes things up.",
        _map,
    ),
    Kind(
        "knowledge_flow",
        "Knowledge flow in rehearsal",
        "What rehearsal did to what the model knows: a question to the right was learnt without being taught, and one "
        "to the left was lost.",
        _flow,
    ),
    Kind(
        "influence",
        "Influence",
        "What a refusal of each question would teach. Drag a rectangle over the picture; its questions are listed "
        "below.",
        _influence,
    ),
    Kind(
        "weights",
        "Weights",
        "How loss weight is spread over the selection. The effective sample size says how many equal weights carry as "
        "much.",
        _weights,
    ),
    Kind("subjects", "Subjects", "Where the questions lie, and where the selection was made.", _subjects),
    Kind(
        "coverage",
        "Coverage of the unknown",
        "How near each unknown question that was not chosen has a chosen one, by the gradient of its refusal. Mass to "
        "the right means that little is left out.",
        _coverage,
    ),
    Kind(
        "norms",
        "Gradient norms",
        "Sizes of the gradients. A second hump or a far tail is worth a look at its questions.",
        _norms,
    ),
    Kind("statuses", "Gradient statuses", "How many rows could be used.", _statuses),
)
