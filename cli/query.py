"""``gradstore query``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradstore.cli.options import store_argument
from gradstore.errors import InputFileError, QueryError

if TYPE_CHECKING:
    import polars as pl

FORMATS = ("table", "csv", "json", "jsonl", "parquet", "arrow")
BINARY = ("parquet", "arrow")
ENDINGS = {".ndjson": "jsonl", ".ipc": "arrow", ".feather": "arrow", **{f".{kind}": kind for kind in FORMATS}}
MOST_ROWS = 10_000  # on a screen, or in a table, which is held as a whole


@click.command("query")
@store_argument
@click.argument("sql")
@click.option("--format", "kind", type=click.Choice(FORMATS), help="Default: as --out ends, else a table.")
@click.option("--json", "as_json", is_flag=True, help="Short for --format json.")
@click.option("--out", type=click.Path(dir_okay=False), help="Write to a file instead of stdout.")
@click.option("--explain", "explained", is_flag=True, help="The plan, rows, time and bytes read, not the rows.")
def command(store: str, sql: str, kind: str | None, as_json: bool, out: str | None, explained: bool) -> None:
    """Run one SELECT over the tables and views of STORE (Polars SQL). SQL is the text, @FILE, or - for stdin.

    Over gradients there are functions, each a column of the view gradients: influence, similarity, nearest,
    nearest_similarity, neighbours (docs/query.md).

    \b
    Example: gradstore query S "SELECT role, count(*) AS n FROM samples GROUP BY role" --json
    Example: gradstore query S @pressure.sql --format parquet --out pressure.parquet
    """
    from gradstore.store import GradientStore, explain_query, query, reading

    kind = "json" if as_json else kind or ENDINGS.get(Path(out or "").suffix.lower(), "table")
    opened, text = GradientStore.open(store), _read(sql)
    if explained:
        show_plan(explain_query(opened, text), as_json)
        return
    if kind in BINARY and out is None:
        raise click.UsageError(f"--format {kind} needs --out FILE")
    frame = query(opened, text)
    with reading():
        if out is not None:
            click.echo(f"{_write(frame, kind, Path(out))} rows to {out}", err=True)
            return
        most = MOST_ROWS if kind == "table" or sys.stdout.isatty() else None
        rows = (frame if most is None else frame.head(most + 1)).collect()
    if most is not None and rows.height > most:
        raise QueryError(f"more than {most:,} rows to be shown: add LIMIT, or write them with --format and --out FILE")
    click.echo(_text(rows, kind).rstrip("\n"))


def _read(sql: str) -> str:
    """The text of the query: as given, of a file, or of stdin."""
    if sql == "-":
        return sys.stdin.read()
    if not sql.startswith("@"):
        return sql
    try:
        return Path(sql[1:]).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError(f"no query can be read from {sql[1:]}: {error}") from error


def show_plan(found: dict[str, Any], as_json: bool) -> None:
    """Print what a query costs."""
    if as_json:
        click.echo(json.dumps(found))
        return
    read = "not counted by this system" if found["bytes_read"] is None else f"{found['bytes_read'] / 1e6:,.2f} MB"
    whole = "" if found["store_bytes"] is None else f" of a store of {found['store_bytes'] / 1e6:,.1f} MB"
    click.echo(f"{found['plan']}\n\n{found['rows']} rows in {found['seconds']:.3f} s; read: {read}{whole}")


def _text(frame: pl.DataFrame, kind: str) -> str:
    import polars as pl

    if kind == "table":
        width = None if sys.stdout.isatty() else 200
        size: dict[str, Any] = {"tbl_rows": 60, "tbl_cols": 30, "fmt_str_lengths": 60, "tbl_width_chars": width}
        with pl.Config(tbl_hide_dataframe_shape=True, **size):
            return str(frame)
    if kind == "csv":
        from gradstore.store import as_csv

        return as_csv(frame)
    plain = frame.with_columns(pl.col(name).cast(pl.List(pl.Float32)) for name in _half_vectors(frame))
    return plain.write_json() if kind == "json" else plain.write_ndjson()


def _half_vectors(frame: pl.DataFrame) -> list[str]:
    """Columns of half-precision vectors, which text formats cannot hold as they are."""
    import polars as pl

    return [c for c, t in frame.schema.items() if isinstance(t, pl.Array | pl.List) and t.inner == pl.Float16]


def _write(frame: pl.LazyFrame, kind: str, out: Path) -> int:
    """Write all rows, as a whole or not at all; parquet and arrow as they come, in bounded memory. Their number."""
    import polars as pl

    if not out.parent.is_dir():
        raise InputFileError(f"no folder {out.parent} to write {out.name} to: make it first")
    half = out.with_name(f".{out.name}.part")
    try:
        if kind in BINARY:
            frame.sink_parquet(half) if kind == "parquet" else frame.sink_ipc(half)
            scanned = pl.scan_parquet(half) if kind == "parquet" else pl.scan_ipc(half)
            rows = int(scanned.select(pl.len()).collect().item())
        else:
            found = frame.collect()
            half.write_text(_text(found, kind), encoding="utf-8")
            rows = found.height
        half.replace(out)
    finally:
        half.unlink(missing_ok=True)
    return rows
