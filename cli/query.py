"""``gradstore query``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradstore.cli.options import store_argument

if TYPE_CHECKING:
    import polars as pl

FORMATS = ("table", "csv", "json", "jsonl", "parquet", "arrow")
BINARY = ("parquet", "arrow")


@click.command("query")
@store_argument
@click.argument("sql")
@click.option("--format", "kind", default="table", show_default=True, type=click.Choice(FORMATS))
@click.option("--json", "as_json", is_flag=True, help="Short for --format json.")
@click.option("--out", type=click.Path(dir_okay=False), help="Write to a file instead of stdout.")
def command(store: str, sql: str, kind: str, as_json: bool, out: str | None) -> None:
    """Run one SELECT over the tables and views of STORE (Polars SQL).

    Example: gradstore query S "SELECT role, count(*) AS n FROM samples GROUP BY role" --json
    """
    from gradstore.store import GradientStore, run_query

    kind = "json" if as_json else kind
    if kind in BINARY and out is None:
        raise click.UsageError(f"--format {kind} needs --out FILE")
    frame = run_query(GradientStore.open(store), sql)
    if out is None:
        click.echo(_text(frame, kind).rstrip("\n"))
        return
    _write(frame, kind, Path(out))
    click.echo(f"{frame.height} rows to {out}", err=True)


def _text(frame: pl.DataFrame, kind: str) -> str:
    import polars as pl

    if kind == "table":
        width = None if sys.stdout.isatty() else 200
        size: dict[str, Any] = {"tbl_rows": 60, "tbl_cols": 30, "fmt_str_lengths": 60, "tbl_width_chars": width}
        with pl.Config(tbl_hide_dataframe_shape=True, **size):
            return str(frame)
    plain = frame.with_columns(pl.col(name).cast(pl.List(pl.Float32)) for name in _half_vectors(frame))
    if kind == "csv":
        nested = [name for name, dtype in plain.schema.items() if dtype.is_nested()]
        return plain.with_columns(pl.col(name).map_elements(_as_json, pl.String) for name in nested).write_csv()
    return plain.write_json() if kind == "json" else plain.write_ndjson()


def _as_json(value: pl.Series) -> str:
    return json.dumps(value.to_list(), ensure_ascii=False)


def _half_vectors(frame: pl.DataFrame) -> list[str]:
    """Columns of half-precision vectors, which text formats cannot hold as they are."""
    import polars as pl

    return [c for c, t in frame.schema.items() if isinstance(t, pl.Array | pl.List) and t.inner == pl.Float16]


def _write(frame: pl.DataFrame, kind: str, out: Path) -> None:
    if kind == "parquet":
        frame.write_parquet(out)
    elif kind == "arrow":
        frame.write_ipc(out)
    else:
        out.write_text(_text(frame, kind), encoding="utf-8")
