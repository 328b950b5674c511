"""Two figures of a scoreboard: what each method trades as fine-tuning grows stronger, and where it ends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradstore.errors import MissingExtra

SHAPES = {"ours": "circle", "literature": "square", "control": "cross"}  # readable without colour


def write_figures(board: Mapping[str, Any], folder: Path) -> list[Path]:
    """``frontiers.svg`` and ``ths.svg`` of a board (see gradstore.pipelines.lab.board), and the same as PNG."""
    try:
        import altair as alt
    except ImportError as error:
        raise MissingExtra("altair", "lab", "a figure") from error
    paths = []
    for name, chart in (("frontiers", _frontiers(alt, board)), ("ths", _ths(alt, board))):
        for kind in ("svg", "png"):
            path = folder / f"{name}.{kind}"
            chart.save(str(path), **({"ppi": 144} if kind == "png" else {}))
            paths.append(path)
    return paths


def _frontiers(alt: Any, board: Mapping[str, Any]) -> Any:
    rows = [
        {**_named(r), "over": over, "fixed": fixed, "strength": n}
        for r in board["rows"]
        for n, (over, fixed) in enumerate(r["frontier"])
    ]
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("over:Q", title="known questions refused (over-refusal)", axis=alt.Axis(format="%")),
            y=alt.Y("fixed:Q", title="unknown questions refused", axis=alt.Axis(format="%")),
            color=alt.Color("variant:N", title="method", scale=alt.Scale(scheme="tableau20")),
            strokeDash=alt.StrokeDash("from:N", title="from", legend=alt.Legend(symbolType="stroke")),
            order="strength:O",
        )
    )
    return _faceted(alt, chart, "Each point a strength of fine-tuning, mean over seeds")


def _ths(alt: Any, board: Mapping[str, Any]) -> Any:
    rows = [
        {
            **_named(r),
            "over": r["over_refusal"],
            "ths": r["ths"],
            "low": r["ths"] - (r["ths_sd"] or 0),
            "high": r["ths"] + (r["ths_sd"] or 0),
        }
        for r in board["rows"]
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("over:Q", title="over-refusal", axis=alt.Axis(format="%")),
        color=alt.Color("variant:N", title="method", scale=alt.Scale(scheme="tableau20")),
    )
    shape = alt.Shape("from:N", title="from", scale=alt.Scale(domain=list(SHAPES), range=list(SHAPES.values())))
    points = base.mark_point(filled=True, size=90).encode(y=alt.Y("ths:Q", title="THS"), shape=shape)
    bars = base.mark_rule().encode(y="low:Q", y2="high:Q")
    labels = base.mark_text(align="left", dx=8, fontSize=10).encode(y="ths:Q", text="variant:N")
    return _faceted(alt, alt.layer(bars, points, labels), "THS at the strength that validation chose, ± sd over seeds")


def _named(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: row[k] for k in ("world", "variant", "from")}


def _faceted(alt: Any, chart: Any, title: str) -> Any:
    facet = chart.properties(width=360, height=320).facet(facet=alt.Facet("world:N", title=None), columns=2)
    return facet.resolve_scale(x="independent", y="independent").properties(title=title)
