"""Ask a store in SQL: exactly one SELECT, over the store's tables and views, and nothing else.

Polars SQL by itself reads any file (``read_csv('/any/path')``) and accepts DROP and DELETE. The statement is
parsed by sqlglot and refused by its shape before Polars sees it; afterwards the plan is checked too, so that
a difference between the two parsers cannot open a file.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import polars as pl
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from gradstore.errors import QueryError
from gradstore.store.compared import compared, has_gradients
from gradstore.store.database import GradientStore
from gradstore.store.functions import SIGNATURES, Call, Rewritten, rewrite
from gradstore.store.lookup import find_sample
from gradstore.store.projections import HIDDEN
from gradstore.store.views import NAMES, frames
from gradstore.store.warm import names_of

DIALECT = "duckdb"  # the nearest to Polars' own: casts with ::, ILIKE, QUALIFY, EXCLUDE
logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns about statements that are refused anyway
WAY_OUT = "write one SELECT over the store's tables"


def query(store: GradientStore, sql: str) -> pl.LazyFrame:
    """Plan ``sql`` over the store; ``.collect()`` runs it. Unnamed columns, vectors above all, are not read.

    Functions over gradients (:mod:`gradstore.store.functions`) look up their groups now, and read vectors when the
    frame is collected. Raises QueryError where the text does not parse, is not exactly one SELECT, names a table or
    column that is not there, reads files, or asks for an empty group.
    """
    statement = check(sql, NAMES)
    rewritten = rewrite(sql, statement, DIALECT)
    used = {t.name for t in statement.find_all(exp.Table)} & set(NAMES)
    named = names_of(statement)
    members = {view: {c: _members(store, call) for c, call in calls.items()} for view, calls in rewritten.views.items()}
    try:
        frame, plan = _planned(store, rewritten, members, frames(store, used, named))
    except pl.exceptions.PolarsError:  # what is held has some of the columns; the message is to list all
        frame, plan = _planned_aloud(store, rewritten, members, frames(store, used))
    # Lance tables are Python scans; any other kind of scan reads a file.
    foreign = set(re.findall(r"^\s*(\w+) SCAN ", plan, flags=re.MULTILINE)) - {"PYTHON"}
    if foreign:
        raise QueryError(f"this query reads something besides the store's tables: {WAY_OUT}")
    return frame


Members = Mapping[str, Mapping[str, list[str]]]


def _planned(
    store: GradientStore, rewritten: Rewritten, members: Members, tables: dict[str, pl.LazyFrame]
) -> tuple[pl.LazyFrame, str]:
    """The frame and its plan in words. Raises PolarsError."""
    for view, calls in rewritten.views.items():
        vectors = tables["gradients"]
        for name, call in calls.items():
            schema = pl.Schema({"row_id": pl.String(), "value": call.dtype})
            values = pl.defer(partial(compared, store, call, members[view][name]), schema=schema)
            vectors = vectors.join(values.rename({"value": name}), on="row_id", how="left")
        tables[view] = vectors
    frame = pl.SQLContext(frames=tables).execute(rewritten.sql, eager=False)
    if rewritten.views and any(name.startswith(HIDDEN) for name in frame.collect_schema().names()):
        raise QueryError("beside functions over gradients, name the columns you want")
    return frame, frame.explain(optimized=False)


def _planned_aloud(
    store: GradientStore, rewritten: Rewritten, members: Members, tables: dict[str, pl.LazyFrame]
) -> tuple[pl.LazyFrame, str]:
    try:
        return _planned(store, rewritten, members, tables)
    except pl.exceptions.ColumnNotFoundError as error:
        raise QueryError(_first_line(error)) from None  # Polars lists the columns there are
    except pl.exceptions.PolarsError as error:
        hint = _columns(tables) or WAY_OUT
        raise QueryError(f"this query cannot be run: {_first_line(error)}; {hint}") from None


def _members(store: GradientStore, call: Call) -> list[str]:
    """The sample ids of a call's group. Raises QueryError where there are none."""
    if call.name == "similarity":
        return [find_sample(store, call.group)]
    try:
        frame = run_query(store, call.group)
    except QueryError as error:
        raise QueryError(f"in the group of {call.name}(): {error}") from None
    ids = frame.to_series(0)
    if ids.dtype != pl.String:
        raise QueryError(f"the group of {call.name}() gives {ids.dtype}, expected sample ids: {call.group}")
    if ids.drop_nulls().is_empty():
        raise QueryError(f"the group of {call.name}() is empty: {call.group}")
    members = ids.drop_nulls().unique().sort().to_list()
    if not has_gradients(store, call.response, members):
        raise QueryError(
            f"none of the {len(members)} ids in the group of {call.name}() has a usable {call.response} gradient, the "
            f"first is {members[0][:80]!r}: expected ids of samples of role train"
        )
    return members


def influence(
    store: GradientStore, *, source: str, target: str, response: str = "refusal", target_response: str = "refusal"
) -> pl.LazyFrame:
    """Influence of the samples of ``source`` on the group ``target``, both SQL conditions on the view ``questions``.

    Columns: sample_id, checkpoint_id, recipe_id, influence (mean cosine, −1 to 1; null where the group has no usable
    gradient), a row a sample of ``source``, checkpoint and recipe. The rows of ``response`` meet the group's gradients
    of ``target_response``. Raises QueryError where a condition does not hold water or no sample is in ``target``.

    >>> influence(store, source="correctness < 0.5", target="subject = 'law' AND correctness >= 0.5")
    """
    if unknown := {response, target_response} - {"answer", "refusal"}:
        raise QueryError(f"response {unknown.pop()!r}, expected answer or refusal")
    for condition in (source, target):
        asked = check(f"SELECT sample_id FROM questions WHERE ({condition})", NAMES)
        if not isinstance(asked, exp.Select) or not isinstance(asked.args["where"].this, exp.Paren):
            raise QueryError(f"{condition!r} came, expected one condition on the view questions")
    return query(
        store,
        "SELECT sample_id, checkpoint_id, recipe_id, "
        f"influence((SELECT sample_id FROM questions WHERE ({target})), '{target_response}') AS influence "
        f"FROM gradients WHERE response = '{response}' AND status = 'ok' "
        f"AND sample_id IN (SELECT sample_id FROM questions WHERE ({source}))",
    )


def run_query(store: GradientStore, sql: str, rows: int | None = None) -> pl.DataFrame:
    """Plan and run ``sql``, for at most ``rows`` rows. Raises QueryError, also for what only shows in the data."""
    frame = query(store, sql)
    with reading():
        return (frame if rows is None else frame.head(rows)).collect()


@contextmanager
def reading() -> Iterator[None]:
    """Say in one line what Polars only finds in the data: a cast, a pattern, a table being rewritten."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        raise QueryError(f"this query failed on the data: {_first_line(error)}") from None


def check(sql: str, tables: Sequence[str]) -> exp.Expression:
    """Parse ``sql``; everything but one SELECT (set operations and CTEs included) over ``tables`` is a QueryError."""
    try:
        statements = [s for s in sqlglot.parse(sql, dialect=DIALECT) if s is not None]
    except RecursionError:
        raise QueryError(f"this SQL is nested too deeply: {WAY_OUT}") from None
    except SqlglotError as error:
        calls = [written for name, written in SIGNATURES.items() if f"{name}(" in sql.lower()]
        way_out = "; ".join([*calls, WAY_OUT])
        raise QueryError(f"this SQL does not parse: {_first_line(error)}: {way_out}") from None
    if len(statements) != 1:
        raise QueryError(f"{len(statements)} statements came, expected one: {WAY_OUT}")
    statement = statements[0]
    if not isinstance(statement, exp.Select | exp.SetOperation | exp.Subquery):
        raise QueryError(f"{statement.key.upper()} came, expected SELECT; a query cannot write: {WAY_OUT}")
    if statement.find(exp.Into, exp.Insert, exp.Update, exp.Delete, exp.Create, exp.Drop, exp.Command):
        raise QueryError(f"a query cannot write: {WAY_OUT}")
    _check_sources(statement, tables)
    return statement


def _check_sources(statement: exp.Expression, tables: Sequence[str]) -> None:
    local = {cte.alias for cte in statement.find_all(exp.CTE)}
    named = False
    for table in statement.find_all(exp.Table):
        plain = isinstance(table.this, exp.Identifier) and not table.args.get("db")
        if not plain:
            raise QueryError(f"{table.sql()} is not a table of the store; a query cannot read files: {WAY_OUT}")
        if table.name not in local and table.name not in tables:
            raise QueryError(f"no table {table.name!r}: there are {', '.join(tables)}")
        named = named or table.name in tables
    for call in statement.find_all(exp.Func):
        name = call.name if isinstance(call, exp.Anonymous) else call.sql_name()
        if re.match(r"(?i)(read|scan)_?(csv|parquet|ipc|json|ndjson|delta|iceberg)", name):
            raise QueryError(f"{name.lower()} reads files, which a query cannot do: {WAY_OUT}")
    if not named:
        raise QueryError(f"this query names no table: there are {', '.join(tables)}; {WAY_OUT}")


def _columns(tables: Mapping[str, pl.LazyFrame]) -> str:
    seen = sorted(name for name in tables if not name.startswith(HIDDEN))
    return "; ".join(f"{name} has {', '.join(tables[name].collect_schema().names())}" for name in seen)


def _first_line(error: Exception) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    text = re.sub(r",? ?\"?__gradstore_\w+\"?", "", text)  # what is hidden is no way out
    text = re.sub(r"<class '[\w.]*\.(\w+)'>", r"\1", text)
    return text.splitlines()[0].rstrip(". ") if text else type(error).__name__
