"""Two histograms on one axis, the first drawn upwards and the second downwards: position tells them apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from gradstore.report.style import data

COUNTS = alt.Axis(labelExpr="format(abs(datum.value), ',d')", format="d", tickMinStep=1)


def mirrored(bins: pl.DataFrame, sides: Sequence[str], title: str, what: str, scale: alt.Scale) -> Any:
    """Bars of ``bins``: low, high (of x), side (one of two ``sides``), questions (how many); empty bins may be absent.

    ``title`` and ``scale`` are those of x; ``what`` is counted. Places in ``sides`` decide colour and direction.
    """
    count = pl.when(pl.col("side") == sides[0]).then(pl.col("questions")).otherwise(-pl.col("questions"))
    return (
        alt.Chart(data(bins.with_columns(count=count), "bins"))
        .mark_bar(binSpacing=1)
        .encode(
            x=binned(title, scale),
            x2="high:Q",
            y=alt.Y("count:Q", title=f"{what}: {sides[0]} above, {sides[1]} below", axis=COUNTS),
            color=alt.Color("side:N", scale=alt.Scale(domain=list(sides)), legend=alt.Legend(title=None)),
            tooltip=[
                alt.Tooltip("side:N", title="of"),
                alt.Tooltip("low:Q", title="from", format=".3~f"),
                alt.Tooltip("high:Q", title="to", format=".3~f"),
                alt.Tooltip("questions:Q", title=what, format=","),
            ],
        )
    )


def binned(title: str, scale: alt.Scale) -> alt.X:
    """The lower edges of bins, on the x axis; the upper ones are ``high``."""
    return alt.X("low:Q", bin="binned", title=title, scale=scale)


def upright(at: float) -> Any:
    """A dashed line across the picture at x = ``at``."""
    return alt.Chart(alt.InlineData(values=[{"at": at}], name="line")).mark_rule(strokeDash=[4, 4]).encode(x="at:Q")
