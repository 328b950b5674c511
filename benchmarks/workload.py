"""What the extraction benchmarks measure on: models from config, random adapters and moments, random samples."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from gradstore.models.adapters import adapter_parameters, add_lora, randomise
from gradstore.models.encoding import Encoded
from gradstore.models.extraction import Extractor
from gradstore.models.features import Moments
from gradstore.models.loading import LoadedModel
from gradstore.models.pretraining import word_tokenizer
from gradstore.sketch import Sketch

ATTENTION = "q_proj,k_proj,v_proj,o_proj"
SHAPES = {
    "demo": {"hidden": 128, "inner": 256, "layers": 2, "heads": 4, "r": 8, "targets": "all-linear", "words": 400},
    "larger": {"hidden": 512, "inner": 1376, "layers": 4, "heads": 8, "r": 16, "targets": ATTENTION, "words": 8000},
}
RESPONSE = 4  # labelled tokens of a sample: an answer, or "I don't know."


@dataclass
class Workload:
    """One adapted model with Adam's moments, on the CPU in float32."""

    name: str
    loaded: LoadedModel
    adapted: Any
    moments: Moments

    @classmethod
    def of(cls, name: str) -> Workload:
        shape: dict[str, Any] = SHAPES[name]
        tokenizer = word_tokenizer([" " + " ".join(f"w{i}" for i in range(shape["words"]))])
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape["hidden"],
            intermediate_size=shape["inner"],
            num_hidden_layers=shape["layers"],
            num_attention_heads=shape["heads"],
            max_position_embeddings=1024,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        base = LlamaForCausalLM(config).eval().requires_grad_(False)
        loaded = LoadedModel(base, tokenizer, name, torch.device("cpu"), "float32", "sdpa")
        adapted = add_lora(base, r=shape["r"], alpha=2 * shape["r"], targets=shape["targets"], seed=1)
        parameters = adapter_parameters(adapted)
        randomise(parameters, seed=1)
        g = torch.Generator().manual_seed(2)
        by_name = {
            n: (torch.randn(p.shape, generator=g) * 1e-4, torch.rand(p.shape, generator=g) * 1e-7)
            for n, p in parameters.items()
        }
        return cls(name, loaded, adapted, Moments(by_name, 50, 0.9, 0.999, 1e-8))

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in adapter_parameters(self.adapted).values())

    def extractor(self, feature: str = "adam", sketch: Sketch | None = None) -> Extractor:
        return Extractor(self.loaded, self.adapted, self.moments, feature, sketch or Sketch())

    def samples(self, tokens: int, count: int, seed: int = 0) -> list[Encoded]:
        """Random token ids; in each some come from a topic of its own, so that gradients are more or less alike."""
        draws = np.random.default_rng(seed)
        words = len(self.loaded.tokenizer)
        found = []
        for i in range(count):
            topic = (i % 8) * (words // 10) + 4 + draws.integers(0, words // 40, tokens)
            free = draws.integers(4, words, tokens)
            ids = np.where(draws.random(tokens) < 0.5, topic, free)
            found.append(Encoded(ids.tolist(), tokens - RESPONSE, "ok"))
        return found

    def save(self, folder: Path, samples: list[Encoded]) -> None:
        """For measurements in other environments: model/, adapter/, samples.json."""
        self.adapted.save_pretrained(str(folder / "adapter"))
        base = self.adapted.get_base_model()
        names = {k.replace(".base_layer", ""): v for k, v in base.state_dict().items() if "lora_" not in k}
        base.save_pretrained(str(folder / "model"), state_dict=names)
        self.loaded.tokenizer.save_pretrained(str(folder / "model"))
        rows = [{"ids": e.ids, "start": e.start} for e in samples]
        (folder / "samples.json").write_text(json.dumps(rows))


def pairs_of(samples: list[Encoded]) -> list[tuple[Encoded, Encoded]]:
    """Each sample with another response of its length to the same prompt."""
    found = []
    for i, e in enumerate(samples):
        other = samples[i - 1].ids[e.start :]
        other = other if other[0] != e.ids[e.start] else [*other[1:], other[0]]
        found.append((e, Encoded(e.ids[: e.start] + other, e.start, "ok")))
    return found
