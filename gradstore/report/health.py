"""Whether the gradients are sound: their norms, and how many rows have a status other than ok."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import polars as pl

from gradstore.report.histogram import mirrored
from gradstore.report.style import data, specification

RESPONSES = ["answer", "refusal"]
BINS = 48
WIDE = 50  # a larger ratio of norms is drawn on a logarithmic axis


def norms(rows: pl.DataFrame) -> dict[str, Any]:
    """Norms of the sketches of both responses. ``rows``: response, norm (> 0), only rows whose status is ok."""
    values = rows["norm"].cast(pl.Float64).to_numpy()
    low, high = float(values.min()), float(values.max())
    wide = high > WIDE * low > 0
    edges = np.geomspace(low, high, BINS + 1) if wide else np.linspace(low, high if high > low else low + 1, BINS + 1)
    edges[-1] = max(edges[-1], high)  # rounding must not lose the largest
    parts = []
    for response in RESPONSES:
        of = rows.filter(pl.col("response") == response)["norm"].cast(pl.Float64).to_numpy()
        counts = np.histogram(of, edges)[0]
        parts.append(pl.DataFrame({"low": edges[:-1], "high": edges[1:], "questions": counts, "side": response}))
    scale = alt.Scale(type="log", nice=False) if wide else alt.Scale(zero=False)
    bins = pl.concat(parts).filter(pl.col("questions") > 0)
    chart = mirrored(bins, RESPONSES, "norm of the gradient's sketch", "rows", scale)
    means = dict(rows.group_by("response").agg(pl.col("norm").cast(pl.Float64).median()).sort("response").iter_rows())
    caption = " ".join(f"Median of the {r} gradients: {m:.4g}." for r, m in means.items())
    return specification(alt.layer(chart), "Gradient norms", caption + " A logarithmic axis." * wide)


def statuses(counts: pl.DataFrame) -> dict[str, Any]:
    """Rows by status. ``counts``: status, response, rows."""
    total, ok = int(counts["rows"].sum()), int(counts.filter(pl.col("status") == "ok")["rows"].sum())
    names = sorted(set(counts["status"]), key=lambda s: (s != "ok", s))
    base = alt.Chart(data(counts.sort("status", "response"), "statuses")).encode(
        y=alt.Y("status:N", title=None, sort=names),
        yOffset=alt.YOffset("response:N", sort=RESPONSES),
        tooltip=["status:N", "response:N", alt.Tooltip("rows:Q", format=",")],
    )
    x = alt.X(
        "rows:Q", title="rows: answer above, refusal below", axis=alt.Axis(tickMinStep=1, format=",d", tickCount=4)
    )
    color = alt.Color("response:N", scale=alt.Scale(domain=RESPONSES), legend=alt.Legend(title=None))
    bars = base.mark_bar().encode(x=x, color=color)
    text = base.mark_text(align="left", dx=4).encode(x="rows:Q", text=alt.Text("rows:Q", format=","))
    caption = f"{ok:,} of {total:,} rows are ok. A row that is not has no vector and enters no mean."
    return specification(alt.layer(bars, text), "Gradient statuses", caption, height=90 + 44 * len(names))
