"""Rows as text for programs: CSV, whose cells hold no lists."""

from __future__ import annotations

import json
from typing import Any

import polars as pl


def as_csv(frame: pl.DataFrame) -> str:
    """CSV with a header; lists, vectors and structs are JSON in their cells."""
    nested = [name for name, kind in frame.schema.items() if kind.is_nested()]
    return frame.with_columns(pl.Series(n, [_json(v) for v in frame[n]], pl.String) for n in nested).write_csv()


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, default=_plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    return value.to_list() if isinstance(value, pl.Series) else str(value)
