"""Text to token ids and labels, exactly as TRL's SFTTrainer prepares the exported row.

TRL 1.16 (``SFTTrainer._prepare_dataset``): plain text is tokenised as prompt + completion *together*, with the
end-of-sequence text appended to the completion; messages go through the chat template; the completion starts
where the tokenised prompt and the tokenised whole diverge; sequences are cut at ``max_length`` from the right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

IGNORED = -100
Text = str | list[dict[str, str]]


@dataclass(frozen=True)
class Encoded:
    """Token ids of prompt and completion; labels are ids from ``start`` on. status: ok | truncated | no-label."""

    ids: list[int]
    start: int
    status: str

    @property
    def labels(self) -> list[int]:
        return [IGNORED] * self.start + self.ids[self.start :]

    @property
    def n_labels(self) -> int:
        """Tokens under the loss; the first of a sequence is nobody's prediction."""
        return max(0, len(self.ids) - max(self.start, 1))


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Text,
    completion: Text,
    max_length: int,
    before: Sequence[int] | None = None,
) -> Encoded:
    """Tokenise one prompt with one completion (both text, or both messages).

    ``before``: the prompt's own ids, of :func:`encode_prompt`, where it has several completions.
    """
    before = encode_prompt(tokenizer, prompt) if before is None else before
    if isinstance(prompt, str) and isinstance(completion, str):
        eos = str(tokenizer.eos_token)
        completion = completion if completion.endswith(eos) else completion + eos
        whole = tokenizer(text=prompt + completion)["input_ids"]
    else:
        whole = apply_chat(tokenizer, [*prompt, *completion], add_generation_prompt=False)
    start = common_prefix([before, whole])
    ids = whole[:max_length]
    if start >= len(ids):
        return Encoded(ids, len(ids), "truncated" if start < len(whole) else "no-label")
    return Encoded(ids, start, "ok" if len(ids) == len(whole) else "truncated")


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Text) -> list[int]:
    """Token ids to generate from."""
    if isinstance(prompt, str):
        return tokenizer(text=prompt)["input_ids"]
    return apply_chat(tokenizer, prompt, add_generation_prompt=True)


def apply_chat(tokenizer: PreTrainedTokenizerBase, messages: list[Any], add_generation_prompt: bool) -> list[int]:
    encoded: Any = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True, add_generation_prompt=add_generation_prompt
    )
    return list(encoded["input_ids"])


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all sequences share."""
    length = min(map(len, sequences))
    for i in range(length):
        if len({s[i] for s in sequences}) > 1:
            return i
    return length


def pad(sequences: Sequence[Sequence[int]], value: int, side: str = "right") -> torch.Tensor:
    """Stack sequences to (b, t) int64, padded with ``value`` on one side."""
    width = max(map(len, sequences))
    rows = torch.full((len(sequences), width), value, dtype=torch.long)
    for row, sequence in zip(rows, sequences, strict=True):
        at = slice(width - len(sequence), width) if side == "left" else slice(0, len(sequence))
        row[at] = torch.tensor(sequence, dtype=torch.long)
    return rows


def padding_mask(sequences: Sequence[Sequence[int]], side: str = "right") -> torch.Tensor:
    """1 where :func:`pad` put a token, 0 where it put padding; (b, t) int64."""
    return pad([[1] * len(s) for s in sequences], 0, side)


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Position of each token, not counting padding; models do not derive this from the mask in a plain forward."""
    return (mask.cumsum(dim=-1) - 1).clamp(min=0)
