"""The list between SELECT and FROM, where calls were replaced by hidden columns: what has no name gets one, and what
is hidden is in no ``*``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sqlglot import exp
from sqlglot.tokens import Token, TokenType

from gradstore.errors import QueryError

HIDDEN = "__gradstore_"  # columns of this name never leave a query
OPEN, CLOSE = (TokenType.L_PAREN, TokenType.L_BRACKET), (TokenType.R_PAREN, TokenType.R_BRACKET)


class Cut(NamedTuple):
    """``text`` takes the place of the characters from ``start`` to before ``end``."""

    start: int
    end: int
    text: str


def projected(
    tokens: list[Token], scope: Any, table: int, calls: Mapping[int, str], hidden: Iterable[str]
) -> list[Cut]:
    """The changes to the list of the SELECT ``scope`` whose replaced table stands at character ``table``.

    ``calls``: character → name of every call; ``hidden``: the columns that the table gained. An expression with a call
    and without a name is named after its first call; a ``*`` leaves the hidden columns out.
    """
    items = _items(tokens, table)
    if len(items) != len(scope.expressions):
        raise QueryError("a function over gradients stands in a SELECT that cannot be taken apart: write it plainly")
    taken = {e.output_name for e in scope.expressions if isinstance(e, exp.Alias | exp.Column)}
    cuts = []
    for item, expression in zip(items, scope.expressions, strict=True):
        within = [name for at, name in sorted(calls.items()) if item[0].start <= at <= item[-1].end]
        if expression.is_star and not isinstance(expression, exp.Count):
            cuts.append(_without(item, sorted(hidden)))
        elif within and not isinstance(expression, exp.Alias):
            name = next(n for n in _names(within[0]) if n not in taken)
            taken.add(name)
            cuts.append(Cut(item[-1].end + 1, item[-1].end + 1, f" AS {name}"))
    return cuts


def _names(first: str) -> Iterable[str]:
    yield first
    yield from (f"{first}_{n}" for n in range(2, 1000))


def _items(tokens: list[Token], table: int) -> list[list[Token]]:
    """The tokens of each expression of the SELECT to whose FROM the table at this character belongs."""
    at = next(n for n, t in enumerate(tokens) if t.start == table)
    end = _back(tokens, at, TokenType.FROM)
    items: list[list[Token]] = [[]]
    depth = 0
    for token in tokens[_back(tokens, end, TokenType.SELECT) + 1 : end]:
        depth += (token.token_type in OPEN) - (token.token_type in CLOSE)
        if depth == 0 and token.token_type == TokenType.COMMA:
            items.append([])
        else:
            items[-1].append(token)
    return [item for item in items if item]


def _back(tokens: list[Token], at: int, kind: TokenType) -> int:
    """The nearest token of this kind before ``at``, not in parentheses of its own."""
    depth = 0
    for n in range(at - 1, -1, -1):
        depth += (tokens[n].token_type in CLOSE) - (tokens[n].token_type in OPEN)
        if depth == 0 and tokens[n].token_type == kind:
            return n
    raise QueryError("a function over gradients needs SELECT … FROM gradients")


def _without(item: list[Token], hidden: list[str]) -> Cut:
    """``*`` less the hidden columns, beside what it leaves out already."""
    at = next(n for n, t in enumerate(item) if t.token_type == TokenType.STAR)
    names = ", ".join(hidden)
    if len(item) > at + 2 and item[at + 1].text.upper() in ("EXCLUDE", "EXCEPT"):
        if item[at + 2].token_type != TokenType.L_PAREN:
            raise QueryError("beside a function over gradients, write * EXCLUDE (…) with its columns in parentheses")
        return Cut(item[at + 2].end + 1, item[at + 2].end + 1, f"{names}, ")
    return Cut(item[at].end + 1, item[at].end + 1, f" EXCLUDE ({names})")
