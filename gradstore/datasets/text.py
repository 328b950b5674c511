"""Values as text: how a value is written, what a list is, and which characters no table can hold."""

import json
import math
import re
import unicodedata
from typing import Any

# The types that count as text; anything else is a structure, and belongs to another shape.
TEXT = (str, int, float, type(None))

# Half of a UTF-16 pair: what surrogateescape makes of a bad byte, and what a lone JSON \ud800 becomes.
SURROGATE = re.compile("[\ud800-\udfff]")


def as_text(value: Any) -> str:
    """Write a scalar as stripped NFC text; null and the float NaN are empty, booleans are lower case.

    Text stays what it is: "NA", "None", "nan" and "1" are answers like any other.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return unicodedata.normalize("NFC", str(value)).strip()


def as_list(value: Any) -> list[Any] | None:
    """Read a list; CSV cells hold it as a JSON array. None where the value is neither."""
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
        if not is_encodable(json.dumps(value, ensure_ascii=False)):
            return None
    return value if isinstance(value, list) else None


def is_encodable(text: str) -> bool:
    """Say whether ``text`` can be written as UTF-8, which hashes and Arrow need."""
    return SURROGATE.search(text) is None


def printable(text: str) -> str:
    """Put U+FFFD for what cannot be encoded, so that a reject can still show it."""
    return SURROGATE.sub("�", text)


def brief(value: Any, width: int = 80) -> str:
    """Quote ``value`` on one line of at most ``width`` characters."""
    shown = repr(value)
    return shown if len(shown) <= width else shown[: width - 1] + "…"
