"""Known, unknown and selected questions of each subject."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from gradstore.report.histogram import COUNTS
from gradstore.report.influence import MARKS
from gradstore.report.knowledge import SIDES
from gradstore.report.style import data, specification

MOST = 40  # subjects in one picture
ROW = 24  # pixels a subject


def subjects(points: pl.DataFrame) -> dict[str, Any]:
    """Bars to the right are known, to the left unknown; a tick on a bar says how many of that side are selected.

    ``points``: subject (null: none is given), side (of ``SIDES``), mark (of ``MARKS``).
    """
    frame = points.with_columns(pl.col("subject").fill_null("(no subject)"))
    total = frame.group_by("subject").len().sort("len", "subject", descending=[True, False])
    names = total["subject"].head(MOST).to_list()
    counted = frame.filter(pl.col("subject").is_in(names), pl.col("side").is_in(SIDES[:2])).group_by("subject", "side")
    picked = pl.col("mark").is_in(MARKS[:2]).sum()
    rows = counted.agg(pl.len().cast(pl.Int64).alias("questions"), picked.cast(pl.Int64).alias("selected"))
    sign = pl.when(pl.col("side") == SIDES[0]).then(1).otherwise(-1)
    rows = rows.with_columns(count=pl.col("questions") * sign, at=pl.col("selected") * sign).sort("subject", "side")
    source = data(rows, "subjects")
    y = alt.Y("subject:N", title=None, sort=names, scale=alt.Scale(domain=names), axis=alt.Axis(labelOverlap=False))
    tooltip = ["subject:N", "side:N", alt.Tooltip("questions:Q", format=","), alt.Tooltip("selected:Q", format=",")]
    color = alt.Color("side:N", scale=alt.Scale(domain=SIDES[:2]), legend=alt.Legend(title=None))
    title = "← unknown · questions · known →"
    bars = (
        alt.Chart(source)
        .mark_bar()
        .encode(x=alt.X("count:Q", title=title, axis=COUNTS), y=y, color=color, tooltip=tooltip)
    )
    layers = [bars]
    caption = ""
    if rows["selected"].sum():
        layers.append(
            alt.Chart(source)
            .mark_tick(size=18)
            .transform_filter("datum.selected > 0")
            .encode(x="at:Q", y=y, tooltip=tooltip)
        )
        caption = "The tick on a bar says how many of its questions are selected; without a tick none is."
    if total.height > MOST:
        caption += f" The {MOST} largest of {total.height} subjects are shown."
    return specification(alt.layer(*layers), "Subjects", caption.strip(), height=80 + ROW * len(names))
