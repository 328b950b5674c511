"""The stages, one story a file: composed of the store, the models and the table side, which do not know each other."""

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """The progress of a caller that wants none."""


@dataclass(frozen=True)
class ModelOptions:
    """Which model, where and how it runs; the same options for every stage that needs one."""

    model: str
    device: str = "auto"
    dtype: str = "auto"
    attention: str = "sdpa"
    revision: str | None = None
    max_length: int = 2048
    batch_tokens: int = 16_384
