"""What gradient rows are made of, and what only decides how long that takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradstore.errors import GradstoreError
from gradstore.identity import content_id
from gradstore.models.features import FEATURES
from gradstore.models.loading import LoadedModel
from gradstore.models.losses import REDUCTIONS
from gradstore.pipelines.shards import WHOLE, Shard
from gradstore.prompts import Prompt
from gradstore.sketch import Sketch


@dataclass(frozen=True)
class ExtractSettings:
    """What a gradient row is made of, besides model and checkpoint."""

    feature: str = "adam"
    dim: int = 8192
    seed: int = 0
    sparsity: int = 1
    template: str = "refuse"
    sketch_kind: str = "countsketch"
    loss: str = "mean"

    def __post_init__(self) -> None:
        if self.feature not in FEATURES:
            raise GradstoreError(f"feature {self.feature!r}: expected {', '.join(FEATURES)}")
        if self.loss not in REDUCTIONS:
            raise GradstoreError(f"loss {self.loss!r}: expected {', '.join(REDUCTIONS)}")

    @property
    def sketch(self) -> Sketch:
        return Sketch(self.sketch_kind, self.dim, self.seed, self.sparsity)


@dataclass(frozen=True)
class HowToRun:
    """What decides time and memory, not rows. ``share_prompts``: a prompt with two responses goes through the model
    once, where that pays and is exact; ``gradient_checkpointing``: compute activations twice, keep few."""

    share_prompts: bool = True
    gradient_checkpointing: bool = False
    shard: Shard = WHOLE
    estimate_only: bool = False


def recipe_row(settings: ExtractSettings, prompt: Prompt, max_length: int, loaded: LoadedModel) -> dict[str, Any]:
    """The row of the ``recipes`` table; its id hashes all other columns."""
    columns = {
        "feature": settings.feature,
        "loss_reduction": settings.loss,
        "prompt_id": prompt.prompt_id,
        "refusal_text": prompt.refusal_text,
        "max_length": max_length,
        "dtype": loaded.dtype,
        "attention": loaded.attention,
        **settings.sketch.as_columns(),
    }
    return {"recipe_id": content_id("recipe", columns), **columns}
