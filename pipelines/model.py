"""Load the model that a stage was given."""

from collections.abc import Callable

from gradstore.models.loading import LoadedModel, context_length, load_model
from gradstore.pipelines import ModelOptions, unsaid


def load(options: ModelOptions) -> LoadedModel:
    """The base model of a stage, frozen, on its device."""
    return load_model(
        options.model,
        device=options.device,
        dtype=options.dtype,
        attention=options.attention,
        revision=options.revision,
        four_bit=options.load_in_4bit,
        tf32=options.tf32,
    )


def special_tokens(loaded: LoadedModel) -> dict[str, str | None]:
    """The texts of the special tokens, for the ``prompts`` table."""
    names = ("bos_token", "eos_token")
    return {n: None if getattr(loaded.tokenizer, n) is None else str(getattr(loaded.tokenizer, n)) for n in names}


def longest_input(options: ModelOptions, loaded: LoadedModel, tell: Callable[[str], None] = unsaid) -> int:
    """Tokens that a sample may have: what was asked for, but no more than the model was made for."""
    context = context_length(loaded.model)
    if context is None or context >= options.max_length:
        return options.max_length
    tell(f"this model reads {context} tokens, not {options.max_length}: longer samples are set aside as truncated")
    return context
