"""Ask a model: letter probabilities from one forward, sampled answers, greedy answers.

Sampling noise is keyed by (seed, sample id, draw, position), never taken from a global generator, so an answer
does not depend on which other questions shared its batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, PreTrainedTokenizerBase

from gradstore.errors import ModelError
from gradstore.models.encoding import Text, common_prefix, encode, pad, padding_mask, positions
from gradstore.models.loading import LoadedModel
from gradstore.sketch import GOLDEN, mix, parameter_key


@torch.inference_mode()
def option_probabilities(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], letters: Sequence[Sequence[int]]
) -> list[np.ndarray]:
    """p of each question's options among all tokens, float64, summing to at most 1; NaN where the model gave NaN.

    ``prompts`` are token ids up to the letter, ``letters`` the token of each option at that place
    (:func:`letter_tokens`): all letters are read off the same next-token distribution.
    """
    logits = _last_logits(loaded, prompts)
    rows = [(row.double(), list(tokens)) for row, tokens in zip(logits, letters, strict=True)]
    return [torch.exp(row[tokens] - torch.logsumexp(row, dim=-1)).cpu().numpy() for row, tokens in rows]


def letter_tokens(
    tokenizer: PreTrainedTokenizerBase, prompt: Text, replies: Sequence[Text]
) -> tuple[list[int], list[int]]:
    """Split prompt + reply into the shared context and the one token that tells the replies apart.

    The boundary is the tokenizer's, not the text's: "Answer:" + " B" may be one token fewer than "Answer: " + "B".
    Raises ModelError where two replies start with the same token.
    """
    whole = [encode(tokenizer, prompt, reply, max_length=1 << 30).ids for reply in replies]
    shared = common_prefix(whole)
    tokens = [ids[shared] for ids in whole if shared < len(ids)]
    if len(set(tokens)) < len(replies):
        raise ModelError(
            f"this tokenizer starts several of the options {list(replies)} with the same token: "
            "their probabilities cannot be read from one forward; import them with --import"
        )
    return whole[0][:shared], tokens


def sample_answers(
    loaded: LoadedModel,
    sample_ids: Sequence[str],
    prompts: Sequence[Sequence[int]],
    *,
    n_samples: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
) -> list[list[str]]:
    """``n_samples`` answers a prompt, in the order of ``prompts``."""
    repeated = [p for p in prompts for _ in range(n_samples)]
    keys = [parameter_key(seed, f"{s}/{draw}") for s in sample_ids for draw in range(n_samples)]
    tokens = _generate(loaded, repeated, max_new_tokens, KeyedSampler(keys, temperature))
    texts = _texts(loaded, tokens)
    return [texts[i * n_samples : (i + 1) * n_samples] for i in range(len(prompts))]


def greedy_answers(loaded: LoadedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
    """The most likely continuation of each prompt, token by token."""
    return _texts(loaded, _generate(loaded, prompts, max_new_tokens))


def greedy_answers_with_confidence(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> list[tuple[str, float]]:
    """The same texts, each with its confidence: the geometric mean of its tokens' probabilities, 0–1, NaN where the
    model gave NaN.

    The token that ends the answer is one of them, what comes after it is not (R-Tuning, arXiv 2311.09677, ranks its
    answers by this number).
    """
    recorder = GreedyRecorder()
    tokens = _generate(loaded, prompts, max_new_tokens, recorder)
    logs = torch.stack(recorder.steps, dim=1)  # (b, steps)
    counted = _until_stop(tokens, loaded.stop_tokens)
    means = logs.masked_fill(~counted, 0.0).sum(dim=1) / counted.sum(dim=1)
    return list(zip(_texts(loaded, tokens), means.exp().tolist(), strict=True))


class GreedyRecorder(LogitsProcessor):
    """Changes nothing; keeps the log-probability of each row's most likely token: a (b,) float32 a step."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        logits = scores.float()
        self.steps.append(logits.amax(dim=-1) - logits.logsumexp(dim=-1))
        return scores


class KeyedSampler(LogitsProcessor):
    """Leaves one token a row: the one at a keyed uniform number in the cumulative distribution."""

    def __init__(self, keys: Sequence[int], temperature: float) -> None:
        self.keys = np.array(keys, dtype=np.uint64)
        self.temperature = temperature
        self.position = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        with np.errstate(over="ignore"):
            bits = mix(self.keys + np.uint64(GOLDEN) * np.uint64(self.position + 1))
        uniform = torch.from_numpy((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)
        self.position += 1
        cumulative = torch.softmax(scores.double() / self.temperature, dim=-1).cumsum(dim=-1)
        at = uniform.to(scores.device)[:, None] * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, at, right=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)


def newline_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens whose text holds a line break: an answer ends with its line."""
    special = set(tokenizer.all_special_ids)
    return [i for i in range(len(tokenizer)) if i not in special and "\n" in tokenizer.decode([i])]


@torch.inference_mode()
def _generate(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    processor: LogitsProcessor | None = None,
) -> torch.Tensor:
    """The tokens that follow each prompt: (b, steps), padded after the one that ended an answer."""
    tokenizer = loaded.tokenizer
    if not loaded.stop_tokens:
        loaded.stop_tokens = [int(tokenizer.eos_token_id), *newline_tokens(tokenizer)]
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=loaded.pad_id,
        eos_token_id=loaded.stop_tokens,
    )
    ids = pad(prompts, loaded.pad_id, "left").to(loaded.device)
    output = loaded.model.generate(
        input_ids=ids,
        attention_mask=padding_mask(prompts, "left").to(loaded.device),
        generation_config=config,
        logits_processor=[processor] if processor else None,
    )
    return output[:, ids.shape[1] :]


def _texts(loaded: LoadedModel, tokens: torch.Tensor) -> list[str]:
    texts = loaded.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [text.strip().split("\n")[0].strip() for text in texts]


def _until_stop(tokens: torch.Tensor, stops: Sequence[int]) -> torch.Tensor:
    """Which tokens belong to the answer, the one that ends it included: (b, steps) bool."""
    stop = torch.isin(tokens, torch.tensor(list(stops), device=tokens.device)).long()
    return (stop.cumsum(dim=1) - stop) == 0


def _last_logits(loaded: LoadedModel, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Next-token logits after each prompt: (b, vocabulary) float32."""
    mask = padding_mask(prompts, "left").to(loaded.device)
    ids = pad(prompts, loaded.pad_id, "left").to(loaded.device)
    output = loaded.model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False)
    return output.logits[:, -1].float()
