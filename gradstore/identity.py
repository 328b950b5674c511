"""Content hashes: the same input gives the same id on any machine, and no row is known by its position.

An id is the first 128 bits of a SHA-256 over the canonical JSON of what it names, written as 32 hex digits.
What each id hashes is decided once: changing it later changes every store.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ID_LENGTH = 32


def content_id(kind: str, content: Mapping[str, Any]) -> str:
    """Hash ``content`` (JSON values only) under the namespace ``kind``; 32 hex digits."""
    text = json.dumps([kind, content], sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]


def normalise_question(text: str) -> str:
    """NFC, runs of white space as one space, stripped. Case and compatibility forms stay: x² is not x2."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def sample_id(task: str, question: str, choices: Sequence[str] | None) -> str:
    """Name a question, never its answer: one question with two answers is a conflict, not two samples."""
    options = None if choices is None else [normalise_question(c) for c in choices]
    return content_id("sample", {"task": task, "question": normalise_question(question), "choices": options})


def prompt_id(template: Mapping[str, str], chat_template: str | None, demos: Iterable[str], refusal_text: str) -> str:
    """Name a way of asking: template texts by task, the model's chat template, demo sample ids, refusal text."""
    content = {
        "template": dict(template),
        "chat_template": chat_template,
        "demos": list(demos),
        "refusal_text": refusal_text,
    }
    return content_id("prompt", content)


def group_id(definition: str, members: Iterable[str]) -> str:
    """Name a group by its definition and its sorted members."""
    return content_id("group", {"definition": definition, "members": sorted(members)})


def row_id(*parts: str) -> str:
    """Name a row of a table whose key has several columns; the order of ``parts`` is the key's."""
    return content_id("row", {"key": list(parts)})


def seeded_order(seed: int, name: str) -> str:
    """Give ``name`` a pseudo-random sort key that depends on nothing but (seed, name)."""
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()
