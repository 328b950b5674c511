"""What the page asks of a child process: queries, charts, explanations. Plain values come back."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import polars as pl

from gradstore.errors import QueryError
from gradstore.explorer.reading import read
from gradstore.store import GradientStore, as_csv, run_query

ROWS = 10_000  # of a result that leave the store for the page
SHOWN_ITEMS = 8  # of a list or vector in one cell of the page
SHOWN_TEXT = 2_000  # characters of a cell
CSV_BYTES = 64 << 20
SAFE_INTEGER = 2**53  # JavaScript's numbers are floats


def table(uri: str, sql: str) -> dict[str, Any]:
    """The first rows of a query: {columns: [{name, type}], rows: [[…]], more}; more: the query has further rows.

    A cell is null, a number, a boolean or a text; lists and vectors are shortened. Raises QueryError.
    """
    frame, more = read(uri, _first_rows, sql)
    columns = [{"name": name, "type": _type(kind)} for name, kind in frame.schema.items()]
    rows = [[_cell(value) for value in row] for row in frame.iter_rows()]
    return {"columns": columns, "rows": rows, "more": more}


def csv(uri: str, sql: str) -> bytes:
    """The same rows as CSV in UTF-8, lists and vectors whole, as JSON. Raises QueryError where it is over 64 MB."""
    frame, _ = read(uri, _first_rows, sql)
    if frame.estimated_size() > CSV_BYTES:
        raise QueryError("the result is too large for a page: name fewer columns, or use `gradstore query --out`")
    return as_csv(frame).encode()


def figures(uri: str, selection: str | None) -> dict[str, Any]:
    """The charts of the report: {figures: name → Vega-Lite, light, dark}, the last two Vega's configuration."""
    from gradstore.pipelines.report import figures
    from gradstore.report.style import DARK, LIGHT

    return {"figures": read(uri, figures, selection), "light": LIGHT, "dark": DARK}


def explain(uri: str, sample_id: str, selection: str | None) -> dict[str, Any]:
    """Who pushes this sample towards refusing, and who against it."""
    from gradstore.pipelines.explain import explain

    return read(uri, explain, sample_id, selection)


def vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from the package that draws the report's pictures."""
    from gradstore.report.page import vega

    return vega()


def _first_rows(store: GradientStore, sql: str) -> tuple[pl.DataFrame, bool]:
    frame = run_query(store, sql, ROWS + 1)
    return frame.head(ROWS), frame.height > ROWS


def _type(kind: pl.DataType) -> str:
    return "number" if kind.is_numeric() else "list" if kind.is_nested() else "text"


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return value if abs(value) < SAFE_INTEGER else str(value)
    if isinstance(value, list | pl.Series):
        shown = ", ".join(_item(v) for v in islice(value, SHOWN_ITEMS))
        more = f", … {len(value)} in all" if len(value) > SHOWN_ITEMS else ""
        return f"[{shown}{more}]"[:SHOWN_TEXT]
    text = str(value)
    return text if len(text) <= SHOWN_TEXT else text[:SHOWN_TEXT] + "…"


def _item(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(_cell(value))
