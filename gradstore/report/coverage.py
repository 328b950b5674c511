"""How near the chosen refusals come to the unknowns that were not chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from gradstore.report.histogram import binned, upright
from gradstore.report.knowledge import SIDES
from gradstore.report.style import data, specification

BINS = 40


def coverage(nearest: np.ndarray, numbers: Mapping[str, float], note: str = "") -> dict[str, Any]:
    """Histogram of ``nearest`` (n,): cosine of each unknown that was not chosen with the nearest chosen refusal.

    ``numbers``: what :func:`gradstore.selection.coverage.coverage` returns, of the same group.
    """
    low = np.floor(float(nearest.min()) * 20) / 20 if len(nearest) else 0.0
    counts, edges = np.histogram(nearest, np.linspace(min(low, 0.95), 1, BINS + 1))
    bins = pl.DataFrame({"low": edges[:-1], "high": edges[1:], "questions": counts, "side": SIDES[1]})
    axis = alt.Axis(tickMinStep=1, format=",d")
    bars = (
        alt.Chart(data(bins.filter(pl.col("questions") > 0), "bins"))
        .mark_bar(binSpacing=1)
        .encode(
            x=binned("cosine with the nearest chosen refusal", alt.Scale(domainMax=1, zero=False, nice=False)),
            x2="high:Q",
            y=alt.Y("questions:Q", title="unknown questions, not chosen", axis=axis),
            color=alt.Color("side:N", scale=alt.Scale(domain=SIDES[:2]), legend=None),
            tooltip=[alt.Tooltip("low:Q", format=".3f"), alt.Tooltip("high:Q", format=".3f"), "questions:Q"],
        )
    )
    mean = float(nearest.mean()) if len(nearest) else 0.0
    caption = (
        f"Dashed: the mean of these, {mean:.3f}; with the chosen, over all unknowns, it is {numbers['coverage']:.3f}. "
        f"The chosen have cosine {numbers['redundancy']:.3f} with their nearest other. "
        f"The two mean gradients have cosine {numbers['mean_cosine']:.3f}, relative distance {numbers['mean_gap']:.3f}."
    )
    layers = alt.layer(bars, upright(mean))
    return specification(layers, "Coverage of the unknown", f"{caption} {note}".strip())
