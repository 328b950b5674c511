"""The stages, one story a file: composed of the store, the models and the table side, which do not know each other."""

from dataclasses import dataclass
from typing import Protocol

DEFAULT_BATCH_TOKENS = 16_384


class Progress(Protocol):
    """Told how far a stage has come, as often as it likes; ``note`` is shown beside it."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None: ...


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """The progress of a caller that wants none."""


def unsaid(text: str) -> None:
    """Where a caller that wants no remarks sends them."""


@dataclass(frozen=True)
class ModelOptions:
    """Which model, where and how it runs; the same options for every stage that needs one.

    ``batch_tokens`` None: extraction finds it, the other stages take the default.
    """

    model: str
    device: str = "auto"
    dtype: str = "auto"
    attention: str = "sdpa"
    revision: str | None = None
    max_length: int = 2048
    batch_tokens: int | None = DEFAULT_BATCH_TOKENS
    load_in_4bit: bool = False
    tf32: bool = False

    @property
    def tokens(self) -> int:
        """Padded tokens a batch, for stages that do not search for it."""
        return self.batch_tokens or DEFAULT_BATCH_TOKENS
