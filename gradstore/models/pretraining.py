"""Small models with a known boundary of knowledge, trained on the spot: a tokenizer, a Llama, a loop.

For the lab and for tests, where no hub can be reached. What is trained is real (transformers' Llama, a real
tokenizer, AdamW), only small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gradstore.models.encoding import IGNORED, pad, padding_mask

BOS, EOS, PAD, UNKNOWN = "<s>", "</s>", "<pad>", "<unk>"


def word_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token a word with its leading space, so that decoding gives back the very text."""
    split = pre_tokenizers.Split(Regex(r" ?[\w']+|\n| ?[^\w\s]"), behavior="isolated")
    words = {piece for text in texts for piece, _ in split.pre_tokenize_str(text)}
    vocabulary = {w: i for i, w in enumerate([BOS, EOS, PAD, UNKNOWN, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Fuse()
    return _wrap(tokenizer)


def bpe_tokenizer(texts: Sequence[str], vocabulary: int = 4096) -> PreTrainedTokenizerFast:
    """Byte-level BPE (Sennrich et al. 2016; GPT-2's bytes) trained on ``texts``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, EOS, PAD, UNKNOWN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrap(tokenizer)


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def small_llama(
    tokenizer: PreTrainedTokenizerFast, *, width: int = 128, layers: int = 2, heads: int = 4, seed: int = 0
) -> LlamaForCausalLM:
    """A Llama built from config, its weights drawn from ``seed``."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,  # tied, facts were learned several times slower
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    weights: Sequence[float],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float = 2e-3,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> float:
    """Train on texts drawn in proportion to ``weights``, the loss over the whole text; returns the last loss (nats).

    AdamW with a one-cycle rate. Draws come from ``seed`` alone.
    """
    eos = int(tokenizer.eos_token_id)
    encoded = [[*ids, eos] for ids in tokenizer(list(texts))["input_ids"]]
    chance = np.asarray(weights, np.float64) / np.sum(weights)
    draws = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    model.train()
    last = float("nan")
    for step in range(steps):
        batch = [encoded[i] for i in draws.choice(len(encoded), size=batch_size, p=chance)]
        last = _backward(model, batch, int(tokenizer.pad_token_id))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        progress(step + 1, steps)
    model.eval()
    return last


def _backward(model: LlamaForCausalLM, batch: list[list[int]], pad_id: int, parts: int = 4) -> float:
    """Gradient of the mean token loss of a batch, run in parts of similar length: the same numbers, less padding."""
    tokens = sum(len(ids) - 1 for ids in batch)
    total = 0.0
    ordered = sorted(batch, key=len)
    for part in (ordered[i * len(batch) // parts : (i + 1) * len(batch) // parts] for i in range(parts)):
        if part:
            logits = model(input_ids=pad(part, pad_id), attention_mask=padding_mask(part), use_cache=False).logits
            targets = pad(part, IGNORED)[:, 1:].flatten()
            loss = nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), targets, ignore_index=IGNORED, reduction="sum"
            )
            (loss / tokens).backward()
            total += loss.item() / tokens
    return total


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write model and tokenizer as a Hugging Face folder."""
    model.save_pretrained(str(out))
    tokenizer.save_pretrained(str(out))
