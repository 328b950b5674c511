"""Load the model that a stage was given."""

from gradstore.models.loading import LoadedModel, load_model
from gradstore.pipelines import ModelOptions


def load(options: ModelOptions) -> LoadedModel:
    """The base model of a stage, frozen, on its device."""
    return load_model(
        options.model,
        device=options.device,
        dtype=options.dtype,
        attention=options.attention,
        revision=options.revision,
    )


def special_tokens(loaded: LoadedModel) -> dict[str, str | None]:
    """The texts of the special tokens, for the ``prompts`` table."""
    names = ("bos_token", "eos_token")
    return {n: None if getattr(loaded.tokenizer, n) is None else str(getattr(loaded.tokenizer, n)) for n in names}
