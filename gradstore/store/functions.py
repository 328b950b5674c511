"""Functions over gradients in SQL, each a column of the view ``gradients`` that is made while the query runs.

====================================  ==========================================================================
``influence(GROUP [, response])``     mean cosine of the row with the group's gradients, −1 to 1
``similarity('id' [, response])``     cosine of the row with one sample's gradient
``nearest(GROUP [, response])``       sample_id of the group's gradient with the largest cosine, itself left out
``nearest_similarity(GROUP [, …])``   that cosine
``neighbours(GROUP, k [, response])`` the k nearest: list of {sample_id, similarity}; UNNEST gives a row each
====================================  ==========================================================================

GROUP is a SELECT in parentheses whose first column is sample ids; it sees the store's tables, not the WITH of the query
around it. ``response``, answer or refusal (the default), says which of the
group's gradients is meant; the row's own response is that of its row. Only gradients of one checkpoint and recipe are
ever multiplied. Rows whose status is not ok have null.

How: the text stays as it was written, but each call is replaced by a hidden column, and the ``gradients`` of the same
SELECT by itself joined with that column. So a call may stand wherever a column may. Equalities in the WHERE of that
SELECT (response, checkpoint_id, recipe_id, sample_id) narrow what is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl
import sqlglot
from sqlglot import exp
from sqlglot.tokens import Token, TokenType

from gradstore.errors import QueryError
from gradstore.store.projections import HIDDEN, Cut, projected

SIGNATURES = {
    "influence": "influence((SELECT sample_id …) [, 'answer' | 'refusal'])",
    "similarity": "similarity('sample_id' [, 'answer' | 'refusal'])",
    "nearest": "nearest((SELECT sample_id …) [, 'answer' | 'refusal'])",
    "nearest_similarity": "nearest_similarity((SELECT sample_id …) [, 'answer' | 'refusal'])",
    "neighbours": "neighbours((SELECT sample_id …), k [, 'answer' | 'refusal'])",
}
NARROWING = ("response", "checkpoint_id", "recipe_id", "sample_id")


@dataclass(frozen=True)
class Call:
    """One call as it was written: ``group`` is SQL that gives sample ids, or (similarity) the id itself."""

    name: str
    group: str
    response: str = "refusal"
    count: int = 1
    where: str | None = None

    @property
    def dtype(self) -> pl.DataType:
        if self.name == "nearest":
            return pl.String()
        if self.name == "neighbours":
            return pl.List(pl.Struct({"sample_id": pl.String, "similarity": pl.Float64}))
        return pl.Float64()


@dataclass(frozen=True)
class Rewritten:
    """SQL without calls; ``views`` names what stands for ``gradients``, with its hidden columns and their calls."""

    sql: str
    views: dict[str, dict[str, Call]]


def rewrite(sql: str, statement: exp.Expression, dialect: str) -> Rewritten:
    """Replace every call in ``sql``, which parses to ``statement``. Raises QueryError where a call is not sound."""
    calls = [c for c in statement.find_all(exp.Anonymous) if str(c.this).lower() in SIGNATURES and not _inside(c)]
    if not calls:
        return Rewritten(sql, {})
    if any(cte.alias == "gradients" for cte in statement.find_all(exp.CTE)):
        raise QueryError("a WITH is called gradients, which functions over gradients are columns of: rename it")
    tokens = sqlglot.tokenize(sql, dialect=dialect)
    cuts: list[Cut] = []
    views: dict[str, dict[str, Call]] = {}
    scopes: dict[int, tuple[Any, Any, str]] = {}  # of each table that is replaced: its SELECT, itself, its view
    for call in sorted(calls, key=lambda c: int(c.meta["start"])):
        scope = call.find_ancestor(exp.Select)
        table = _gradients_of(scope, str(call.this))
        if id(table) not in scopes:
            scopes[id(table)] = scope, table, f"{HIDDEN}gradients_{len(views)}"
            views[scopes[id(table)][2]] = {}
        columns = views[scopes[id(table)][2]]
        asked, end = _parsed(sql, tokens, call, _narrowed(scope, table))
        column = next((c for c, other in columns.items() if other == asked), f"{HIDDEN}{len(columns)}")
        columns[column] = asked
        cuts.append(Cut(int(call.meta["start"]), end, f"{_quoted(table.alias or 'gradients')}.{column}"))
    for scope, table, view in scopes.values():
        start, end = int(table.this.meta["start"]), int(table.this.meta["end"]) + 1
        cuts.append(Cut(start, end, view if table.alias else f"{view} AS gradients"))
        cuts += projected(tokens, scope, start, {int(c.meta["start"]): str(c.this).lower() for c in calls}, views[view])
    for cut in sorted(cuts, reverse=True):
        sql = sql[: cut.start] + cut.text + sql[cut.end :]
    return Rewritten(sql, views)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _inside(call: exp.Expression) -> bool:
    """Whether the call is in the group of another one, which is a query of its own."""
    above = call.parent
    while above is not None:
        if isinstance(above, exp.Anonymous) and str(above.this).lower() in SIGNATURES:
            return True
        above = above.parent
    return False


def _gradients_of(scope: exp.Expression | None, name: str) -> Any:
    """The one table ``gradients`` in the FROM of a SELECT."""
    if scope is None:
        raise QueryError(f"{name}() stands outside a SELECT: write SELECT {name}(…) FROM gradients")
    sources = [scope.args.get("from_"), *(scope.args.get("joins") or [])]
    tables = [s.this for s in sources if s is not None and isinstance(s.this, exp.Table)]
    found = [t for t in tables if t.name == "gradients"]
    if len(found) != 1:
        raise QueryError(
            f"{name}() is a column of gradients, which stands {len(found)} times in the FROM of its SELECT, expected "
            "once: write FROM gradients g JOIN …, or put it into a subquery"
        )
    return found[0]


def _parsed(sql: str, tokens: list[Token], call: exp.Anonymous, where: str | None) -> tuple[Call, int]:
    """The call, and where its text ends."""
    name = str(call.this).lower()
    arguments, end = _arguments(sql, tokens, int(call.meta["start"]))
    wrong = QueryError(f"{sql[int(call.meta['start']) : end]!r} came, expected {SIGNATURES[name]}")
    values = list(call.expressions)
    if len(values) != len(arguments) or not values:
        raise wrong
    first, rest = values[0], values[1:]
    if name == "similarity":
        if not (isinstance(first, exp.Literal) and first.is_string):
            raise wrong
        group = first.name
    elif isinstance(first, exp.Query):
        group = arguments[0]
    else:
        raise wrong
    count = 1
    if name == "neighbours":
        if not rest or not isinstance(rest[0], exp.Literal) or not rest[0].is_int or int(rest[0].name) < 1:
            raise wrong
        count, rest = int(rest[0].name), rest[1:]
    responses = [r.name for r in rest if isinstance(r, exp.Literal) and r.name in ("answer", "refusal")]
    if len(rest) > 1 or len(responses) != len(rest):
        raise wrong
    return Call(name, group, responses[0] if responses else "refusal", count, where), end


def _arguments(sql: str, tokens: list[Token], start: int) -> tuple[list[str], int]:
    """The texts between a call's parentheses, apart at its commas, and the position after the last parenthesis."""
    at = next(n for n, t in enumerate(tokens) if t.start == start)
    depth, texts, begun = 0, [], tokens[at + 1].end + 1
    for token in tokens[at + 1 :]:
        if token.token_type in (TokenType.L_PAREN, TokenType.L_BRACKET):
            depth += 1
        elif token.token_type in (TokenType.R_PAREN, TokenType.R_BRACKET):
            depth -= 1
        if depth == 0 or (depth == 1 and token.token_type == TokenType.COMMA):
            texts.append(sql[begun : token.start].strip())
            begun = token.end + 1
        if depth == 0:
            return texts, begun
    raise QueryError("a parenthesis is not closed: write one SELECT over the store's tables")


def _narrowed(scope: Any, table: Any) -> str | None:
    """What the SELECT's own WHERE says of gradients' keys, as a condition for Lance: rows without it fall anyway."""
    where = scope.args.get("where")
    if where is None:
        return None
    alone = not scope.args.get("joins")
    parts = []
    for term in where.this.flatten() if isinstance(where.this, exp.And) else [where.this]:
        if not isinstance(term, exp.EQ):
            continue
        column, value = term.left, term.right
        of_table = isinstance(column, exp.Column) and column.table in (
            (table.alias or "gradients"),
            "" if alone else None,
        )
        if of_table and column.name in NARROWING and isinstance(value, exp.Literal) and value.is_string:
            parts.append(f"{column.name} = '" + value.name.replace("'", "''") + "'")
    return " AND ".join(sorted(parts)) or None
