"""Scalar columns that a process has asked for before, held in memory while their table stays at its version.

The first query over some columns goes to Lance, which reads what it must and no more; a second one over the same
columns is taken for the beginning of a conversation: they are read whole, and from then on queries run over memory.
Vectors are never held. Belongs to one open :class:`~gradstore.store.GradientStore`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

import polars as pl
from sqlglot import exp

from gradstore.schemas import TABLES

if TYPE_CHECKING:
    from gradstore.store.database import GradientStore

ROOM = 1 << 30  # bytes, of all tables of a store


@dataclass
class Held:
    """One table at one version: the columns that were asked for, and those that are here."""

    version: int
    asked: set[str] = field(default_factory=set)
    too_large: bool = False
    frame: pl.DataFrame = field(default_factory=pl.DataFrame)


class WarmColumns:
    """What one open store holds. Safe to ask from several threads."""

    def __init__(self) -> None:
        self._tables: dict[str, Held] = {}
        self._turn = Lock()

    def scan(self, store: GradientStore, table: str, names: frozenset[str]) -> pl.LazyFrame:
        """The columns of a plain ``table`` that are among ``names``, and its key, from memory or from Lance."""
        if not store.present([table]):  # it came after this store was made, which cannot be written
            return store.scan(table)
        schema = TABLES[table].schema
        wanted = {schema.names[0], *(n for n in schema.names if n in names)}
        version = store.versions([table])[table]
        with self._turn:
            held = self._tables.get(table)
            if held is None or held.version != version:
                held = self._tables[table] = Held(version)
            if not wanted <= set(held.frame.columns):
                if held.too_large or not wanted <= held.asked:
                    held.asked |= wanted
                    return store.scan(table, version=version)
                self._read(store, table, held, wanted)
            self._tables[table] = self._tables.pop(table)  # the last to be asked is the last to go
            return held.frame.lazy() if wanted <= set(held.frame.columns) else store.scan(table, version=version)

    def _read(self, store: GradientStore, table: str, held: Held, wanted: set[str]) -> None:
        """Read the columns in one scan, so that rows belong together; a table that is too large is left to Lance."""
        columns = sorted(wanted | set(held.frame.columns))
        frame = store.scan(table, version=held.version).select(columns).collect()
        held.too_large = frame.estimated_size() > ROOM
        if held.too_large:
            return
        held.frame = frame
        for other in list(self._tables):
            if sum(h.frame.estimated_size() for h in self._tables.values()) <= ROOM:
                break
            if other != table:
                del self._tables[other]


def names_of(statement: exp.Expression) -> frozenset[str] | None:
    """Every name in a statement, so every column that it can need; None where it may need any: ``*``, NATURAL JOIN."""
    stars = [star for star in statement.find_all(exp.Star) if not isinstance(star.parent, exp.Count)]
    natural = [join for join in statement.find_all(exp.Join) if join.args.get("method")]
    if stars or natural or statement.find(exp.Columns):
        return None
    return frozenset(name.name for name in statement.find_all(exp.Identifier))
