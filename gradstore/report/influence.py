"""Whom a refusal teaches: influence on the unknown questions against influence on the known ones."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from gradstore.report.knowledge import SIDES
from gradstore.report.style import POINTS, look, question_tooltip, sample, sided, specification

MARKS = ["keeps its answer", "refuses", "not selected"]
LAYERS = ["not selected", "keeps its answer", "refuses"]  # drawn in this order


def influence(points: pl.DataFrame, note: str = "") -> dict[str, Any]:
    """I_ref against I_over, the selection marked; the interval parameter ``brush`` is what a page may link to.

    ``points``: sample_id, question, answer, correctness, i_ref, i_over (−1 to 1), weight (null: not selected), side
    (known | unknown) and mark (of ``MARKS``). Refusals are drawn last, so that nothing lies on top of them. Where
    nothing is selected, the sides are marked instead.
    """
    whole = points.drop_nulls(["i_ref", "i_over"])
    shown, sampled = sample(whole)
    order = pl.col("mark").replace_strict({mark: n for n, mark in enumerate(LAYERS)}, return_dtype=pl.Int8)
    shown = shown.sort(order, "sample_id")
    selected = (shown["mark"] != "not selected").any()
    size, opacity = look(shown.height)
    scale = alt.Scale(zero=False, padding=8)
    quiet = "datum.mark == 'not selected'"
    marks = (
        alt.Chart(POINTS, name="dots")
        .mark_point(filled=True)
        .encode(
            x=alt.X("i_over:Q", title="I_over: influence on the known", scale=scale),
            y=alt.Y("i_ref:Q", title="I_ref: influence on the unknown", scale=scale),
            opacity=alt.condition(quiet, alt.value(0.4 if selected else opacity), alt.value(0.85)),
            size=alt.condition(quiet, alt.value(min(size, 22) if selected else size), alt.value(64)),
            tooltip=question_tooltip("correctness", "i_ref=I_ref", "i_over=I_over", "weight"),
            **(sided(MARKS, "mark") if selected else sided(SIDES[:2])),
        )
        .add_params(alt.selection_interval(name="brush"))
    )
    caption = ["Up: its refusal teaches to refuse the unknown. Right: it pushes the known towards refusing, too."]
    caption += [note] * bool(note) + [sampled] * bool(sampled)
    return specification(alt.layer(marks), "Influence", " ".join(caption), shown)
