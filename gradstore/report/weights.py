"""How weight is spread over a selection, and how many equal weights it amounts to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from gradstore.report.influence import MARKS
from gradstore.report.style import DASHES, POINTS, sample, specification

SIDES = MARKS[:2]


def weights(picked: pl.DataFrame, sizes: Mapping[str, float]) -> dict[str, Any]:
    """Weights of both sides, largest first, and the effective sample size of the refusals as a line across.

    ``picked``: sample_id, question, weight, mark (of the first two ``MARKS``). ``sizes``: mark → effective sample size
    (Kish), of those marks that there are.
    """
    place = pl.col("weight").rank("ordinal", descending=True).over("mark").alias("place")
    shown, sampled = sample(picked.sort("mark", "sample_id").with_columns(place.cast(pl.Int64)))
    legend = alt.Legend(title=None, symbolType="stroke")
    top = 1.15 * float(shown["weight"].max() or 1)  # type: ignore[arg-type]  # room for the label
    lines = (
        alt.Chart(POINTS)
        .mark_line(point=alt.OverlayMarkDef(size=14), strokeWidth=2)
        .encode(
            x=alt.X("place:Q", title="samples, heaviest first", axis=alt.Axis(tickMinStep=1, format=",d")),
            y=alt.Y("weight:Q", title="weight", scale=alt.Scale(domain=[0, top], nice=False)),
            color=alt.Color("mark:N", scale=alt.Scale(domain=SIDES), legend=legend),
            strokeDash=alt.StrokeDash("mark:N", scale=alt.Scale(domain=SIDES, range=DASHES[:2]), legend=legend),
            tooltip=["question:N", "mark:N", "place:Q", alt.Tooltip("weight:Q", format=".4~f")],
        )
    )
    layers = [lines]
    if MARKS[1] in sizes:
        at = alt.Chart(
            alt.InlineData(values=[{"at": sizes[MARKS[1]], "says": f"ESS {sizes[MARKS[1]]:.1f}"}], name="ess")
        )
        layers.append(at.mark_rule(strokeDash=[4, 4]).encode(x="at:Q"))
        layers.append(at.mark_text(align="left", dx=5, baseline="top").encode(x="at:Q", y=alt.value(2), text="says:N"))
    counts = dict(picked.group_by("mark").len().iter_rows())
    sums = dict(picked.group_by("mark").agg(pl.col("weight").sum()).iter_rows())
    caption = [
        f"{counts[m]:,} samples that a model {verb}: weights sum to {sums[m]:.4g}, "
        f"effective sample size {sizes[m]:.1f}."
        for m, verb in zip(SIDES, ("keeps answering", "learns to refuse"), strict=True)
        if m in counts
    ]
    return specification(alt.layer(*layers), "Weights", " ".join([*caption, sampled]).strip(), shown)
