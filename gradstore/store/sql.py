"""Ask a store in SQL: exactly one SELECT, over the store's tables and views, and nothing else.

Polars SQL by itself reads any file (``read_csv('/any/path')``) and accepts DROP and DELETE. The statement is
parsed by sqlglot and refused by its shape before Polars sees it; afterwards the plan is checked too, so that
a difference between the two parsers cannot open a file.
"""

import logging
import re

import polars as pl
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from gradstore.errors import QueryError
from gradstore.store.database import GradientStore
from gradstore.store.views import frames

DIALECT = "duckdb"  # the nearest to Polars' own: casts with ::, ILIKE, QUALIFY, EXCLUDE
logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns about statements that are refused anyway
WAY_OUT = "write one SELECT over the store's tables"


def query(store: GradientStore, sql: str) -> pl.LazyFrame:
    """Plan ``sql`` over the store; ``.collect()`` runs it. Unnamed columns, vectors above all, are not read.

    Raises QueryError where the text does not parse, is not exactly one SELECT, names a table or column that
    is not there, or reads files.
    """
    tables = frames(store)
    check(sql, sorted(tables))
    try:
        frame = pl.SQLContext(frames=tables).execute(sql, eager=False)
        schema = frame.collect_schema()
        plan = frame.explain(optimized=False)
    except pl.exceptions.ColumnNotFoundError as error:
        raise QueryError(_first_line(error)) from None  # Polars lists the columns there are
    except (pl.exceptions.PolarsError, pl.exceptions.SQLInterfaceError) as error:
        hint = _columns(sql, tables) or WAY_OUT
        raise QueryError(f"this query cannot be run: {_first_line(error)}; {hint}") from None
    # Lance tables are Python scans; any other kind of scan reads a file.
    foreign = set(re.findall(r"^\s*(\w+) SCAN ", plan, flags=re.MULTILINE)) - {"PYTHON"}
    if foreign or not len(schema):
        raise QueryError(f"this query reads something besides the store's tables: {WAY_OUT}")
    return frame


def run_query(store: GradientStore, sql: str) -> pl.DataFrame:
    """Plan and run ``sql``. Raises QueryError, also for what only shows in the data (a cast, a pattern)."""
    frame = query(store, sql)
    try:
        return frame.collect()
    except pl.exceptions.PolarsError as error:
        raise QueryError(f"this query failed on the data: {_first_line(error)}") from None


def check(sql: str, tables: list[str]) -> None:
    """Refuse everything but one SELECT (set operations and CTEs included) over ``tables``. Raises QueryError."""
    try:
        statements = [s for s in sqlglot.parse(sql, dialect=DIALECT) if s is not None]
    except SqlglotError as error:
        raise QueryError(f"this SQL does not parse: {_first_line(error)}: {WAY_OUT}") from None
    if len(statements) != 1:
        raise QueryError(f"{len(statements)} statements came, expected one: {WAY_OUT}")
    statement = statements[0]
    if not isinstance(statement, exp.Select | exp.SetOperation | exp.Subquery):
        raise QueryError(f"{statement.key.upper()} came, expected SELECT; a query cannot write: {WAY_OUT}")
    if statement.find(exp.Into, exp.Insert, exp.Update, exp.Delete, exp.Create, exp.Drop, exp.Command):
        raise QueryError(f"a query cannot write: {WAY_OUT}")
    _check_sources(statement, tables)


def _check_sources(statement: exp.Expression, tables: list[str]) -> None:
    local = {cte.alias for cte in statement.find_all(exp.CTE)}
    for table in statement.find_all(exp.Table):
        plain = isinstance(table.this, exp.Identifier) and not table.args.get("db")
        if not plain:
            raise QueryError(f"{table.sql()} is not a table of the store; a query cannot read files: {WAY_OUT}")
        if table.name not in local and table.name not in tables:
            raise QueryError(f"no table {table.name!r}: there are {', '.join(tables)}")
    for call in statement.find_all(exp.Func):
        name = call.name if isinstance(call, exp.Anonymous) else call.sql_name()
        if re.match(r"(?i)(read|scan)_?(csv|parquet|ipc|json|ndjson|delta|iceberg)", name):
            raise QueryError(f"{name.lower()} reads files, which a query cannot do: {WAY_OUT}")


def _columns(sql: str, tables: dict[str, pl.LazyFrame]) -> str:
    used = {t.name for t in sqlglot.parse_one(sql, dialect=DIALECT).find_all(exp.Table)} & set(tables)
    return "; ".join(f"{name} has {', '.join(tables[name].collect_schema().names())}" for name in sorted(used))


def _first_line(error: Exception) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    text = re.sub(r"<class '[\w.]*\.(\w+)'>", r"\1", text)
    return text.splitlines()[0].rstrip(". ") if text else type(error).__name__
