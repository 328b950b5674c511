"""Read from a store that others may be writing: every answer comes from an open of its own, tried again if need be."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import polars as pl

from gradstore.errors import GradstoreError
from gradstore.store import GradientStore

PAUSES = (0.1, 0.2, 0.4)  # seconds between attempts


def read(uri: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(store, *arguments)`` on the store as it is now.

    A table that is replaced or cleaned up between its listing and its reading fails once, and is there a
    moment later; so what is not an error of the user is tried again.
    """
    for pause in PAUSES:
        try:
            return function(GradientStore.open(uri), *arguments)
        except GradstoreError:
            raise
        except (OSError, RuntimeError, ValueError, pl.exceptions.PolarsError):
            time.sleep(pause)
    return function(GradientStore.open(uri), *arguments)


def finite(value: Any) -> Any:
    """Plain values with NaN and infinity as None, all the way down: JSON knows neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
