"""What the model knows: the knowledge map, and how knowledge flowed in rehearsal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from gradstore.identity import seeded_order
from gradstore.report.histogram import mirrored, upright
from gradstore.report.style import POINTS, SEED, look, question_tooltip, sample, sided, specification

SIDES = ["known", "unknown", "at the threshold"]
SPREAD = 0.03  # width of the square over which points on one spot are spread


def knowledge_map(points: pl.DataFrame, threshold: float) -> dict[str, Any]:
    """Correctness against certainty, one mark a question.

    ``points``: sample_id, question, answer, correctness (0–1), certainty (0–1), side (of ``SIDES``). Where most points
    share their spot with another, as answers drawn ten times do, they are spread, by an amount that hangs on the id.
    """
    shown, sampled = sample(points.drop_nulls(["correctness", "certainty"]))
    crowded = shown.select("correctness", "certainty").n_unique() < shown.height / 2
    shown = _placed(shown, SPREAD if crowded else 0.0)
    size, opacity = look(shown.height)
    present = [s for s in SIDES if s in set(shown["side"])]
    domain = SIDES if present == SIDES else SIDES[:2]
    scale, axis = alt.Scale(domain=[-0.04, 1.04], nice=False), alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format=".2~f")
    marks = (
        alt.Chart(POINTS, name="dots")
        .mark_point(filled=True, size=size, opacity=opacity)
        .encode(
            x=alt.X("x:Q", title="correctness", scale=scale, axis=axis),
            y=alt.Y("y:Q", title="certainty", scale=scale, axis=axis),
            tooltip=question_tooltip("correctness", "certainty"),
            **sided(domain),
        )
    )
    counts = dict(points.group_by("side").len().iter_rows())
    caption = [f"{counts[s]:,} {s}." for s in SIDES if s in counts]
    caption.append(f"The dashed line is the threshold, {threshold:g}.")
    caption += ["Points on one spot are spread a little."] * crowded + [sampled] * bool(sampled)
    return specification(alt.layer(upright(threshold), marks), "Knowledge map", " ".join(caption), shown)


def _placed(points: pl.DataFrame, spread: float) -> pl.DataFrame:
    """With x and y: correctness and certainty, moved by at most half of ``spread``; a hash of the id says where to."""
    hashes = [seeded_order(SEED, i) for i in points["sample_id"]]
    moved = {
        name: pl.col(of).cast(pl.Float64)
        + (pl.Series([int(h[at : at + 4], 16) for h in hashes]) / 0xFFFF - 0.5) * spread
        for name, of, at in (("x", "correctness", 0), ("y", "certainty", 4))
    }
    return points.with_columns(**moved)


def knowledge_flow(flow: Mapping[str, Any]) -> dict[str, Any]:
    """Change of correctness through rehearsal: a histogram for the known and one for the unknown.

    ``flow`` is what :func:`gradstore.flow.knowledge_flow` returns. The known are drawn upwards, the unknown downwards.
    """
    rows = [
        {"low": low, "high": high, "side": side, "questions": n}
        for side in SIDES[:2]
        for low, high, n in zip(flow["edges"][:-1], flow["edges"][1:], flow[side], strict=True)
        if n
    ]
    scale = alt.Scale(domain=[-1, 1], nice=False)
    bars = mirrored(pl.DataFrame(rows), SIDES[:2], "change of correctness", "questions", scale)
    improved, worsened = flow["unknown_improved"], flow["known_worsened"]
    caption = [f"{flow['became_known']:,} became known, {flow['became_unknown']:,} became unknown."]
    caption += [f"Of the unknown {improved:.0%} improved."] if improved is not None else []
    caption += [f"Of the known {worsened:.0%} worsened."] if worsened is not None else []
    return specification(alt.layer(bars, upright(0)), "Knowledge flow in rehearsal", " ".join(caption))
