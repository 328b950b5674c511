"""The cookbook: questions that users ask of a store, as SQL. Its text is ``cookbook.toml`` beside this file."""

from __future__ import annotations

import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template


@dataclass(frozen=True)
class Entry:
    """One recipe: a title, what it answers in a sentence, and the query."""

    title: str
    question: str
    sql: str


def cookbook(selection: str = "grait", other: str = "cor-rait") -> list[Entry]:
    """Every entry, in order, asked of the selections of these names."""
    names = {"selection": selection.replace("'", "''"), "other": other.replace("'", "''")}
    return [Entry(e.title, e.question, Template(e.sql).substitute(names).strip()) for e in _read()]


@cache
def _read() -> tuple[Entry, ...]:
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    return tuple(Entry(**entry) for entry in tomllib.loads(text)["entry"])


def page() -> str:
    """The entries as Markdown, which docs/cookbook.md holds."""
    parts = [f"## {n}. {e.title}\n\n{e.question}\n\n```sql\n{e.sql}\n```\n" for n, e in enumerate(cookbook(), 1)]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
