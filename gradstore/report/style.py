"""How every picture looks: one palette, a light and a dark theme, and how a chart becomes plain Vega-Lite JSON.

A chart names no colour. Its categories come in a fixed order (known, unknown, neither), and the theme has a colour for
each place, so the same specification is drawn in the light and in the dark. Colours are those of Okabe and Ito (2008),
which differ without colour vision too; shape or position always says the same as colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from gradstore.identity import seeded_order

MAX_POINTS = 10_000  # Vega draws more only slowly
DENSE = 3_000  # more points than this are drawn smaller and paler
SEED = 0
HEIGHT = 340
POINTS = alt.NamedData(name="points")  # of a figure with a mark a question
SHAPES = ["circle", "triangle-up", "cross"]
DASHES = [[1, 0], [5, 3], [1, 3]]
FONT = "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', 'DejaVu Sans', sans-serif"

_LIGHT = {"ink": "#222222", "quiet": "#5c5c5c", "grid": "#e4e4e4", "palette": ["#0072B2", "#D55E00", "#8a8a8a"]}
_DARK = {"ink": "#ececec", "quiet": "#b5b5b5", "grid": "#3a3d42", "palette": ["#56B4E9", "#E69F00", "#9a9a9a"]}


def _theme(ink: str, quiet: str, grid: str, palette: list[str]) -> dict[str, Any]:
    axis = {"labelColor": quiet, "titleColor": ink, "gridColor": grid, "domainColor": quiet, "tickColor": quiet}
    overlap = {"labelFlush": False, "labelOverlap": True, "labelSeparation": 6}
    return {
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": "transparent"},
        "axis": {
            **axis,
            **overlap,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelLimit": 110,
        },
        "axisX": {"tickCount": {"expr": "ceil(width / 80)"}},
        "legend": {"labelColor": ink, "titleColor": ink, "labelFontSize": 12, "orient": "top", "columns": 3},
        "title": {"color": ink, "subtitleColor": quiet, "anchor": "start"},
        "range": {"category": palette},
        "rule": {"color": quiet},
        "text": {"color": ink, "fontSize": 12},
        "tick": {"color": ink, "thickness": 4, "opacity": 1},
    }


LIGHT, DARK = _theme(**_LIGHT), _theme(**_DARK)  # type: ignore[arg-type]


def data(frame: pl.DataFrame, name: str) -> alt.InlineData:
    """A small frame as named inline data."""
    return alt.InlineData(values=values(frame), name=name)


def values(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """A frame as JSON values: floats to six digits, nan as null, columns that are all null left out."""
    kept = [c for c in frame.columns if frame[c].null_count() < frame.height]
    return [{k: _plain(v) for k, v in row.items()} for row in frame.select(kept).iter_rows(named=True)]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def sided(domain: Sequence[str], field: str = "side") -> dict[str, Any]:
    """Colour and shape of a category; its place in ``domain`` decides both."""
    legend = alt.Legend(title=None, symbolOpacity=1)
    return {
        "color": alt.Color(f"{field}:N", scale=alt.Scale(domain=list(domain)), legend=legend),
        "shape": alt.Shape(
            f"{field}:N", scale=alt.Scale(domain=list(domain), range=SHAPES[: len(domain)]), legend=legend
        ),
    }


def look(points: int) -> tuple[float, float]:
    """Area (square pixels) and opacity of a mark among so many."""
    return (34, 0.55) if points <= DENSE else (14, 0.35)


def sample(frame: pl.DataFrame, limit: int = MAX_POINTS) -> tuple[pl.DataFrame, str]:
    """At most ``limit`` rows by a seeded hash of their ids, sorted by id; and what the caption has to say of it."""
    if frame.height <= limit:
        return frame.sort("sample_id"), ""
    order = pl.Series("order", [seeded_order(SEED, i) for i in frame["sample_id"]])
    part = frame.with_columns(order).sort("order").head(limit).drop("order").sort("sample_id")
    return part, f"A sample: {limit:,} of {frame.height:,} shown."


def specification(
    chart: Any, title: str, caption: str, points: pl.DataFrame | None = None, *, height: int = HEIGHT
) -> dict[str, Any]:
    """A chart as Vega-Lite JSON without colours or a size of its own; title and caption lie in ``usermeta``.

    ``points`` are the rows of a chart of ``POINTS``; they lie in ``datasets``, past Altair, which takes seconds to
    check some thousands. The same chart gives the same JSON, whatever was drawn before it.
    """
    size = {"width": "container", "height": height, "autosize": alt.AutoSizeParams(type="fit", contains="padding")}
    spec = chart.properties(**size, description=f"{title}. {caption}").to_dict()
    spec.pop("config", None)
    if points is not None:
        spec["datasets"] = {POINTS.name: values(points)}
    return {**spec, "usermeta": {"title": title, "caption": caption}}


def question_tooltip(*numbers: str) -> list[Any]:
    """What a point says when it is pointed at: its question, then numbers given as field or field=title."""
    shown = [alt.Tooltip("question:N", title="question"), alt.Tooltip("answer:N", title="answer")]
    for field in numbers:
        name, _, title = field.partition("=")
        shown.append(alt.Tooltip(f"{name}:Q", title=title or name, format=".3~f"))
    return shown
