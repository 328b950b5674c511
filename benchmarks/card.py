"""Extraction on a CUDA card: an 8B-shaped random Llama in bfloat16, LoRA r=64 on q, k, v, o, MMLU-like prompts.

python benchmarks/card.py [--data MMLU.csv …] [--rows 512] [--batch-tokens 16384] [--json FILE]

Prints rows and tokens a second of the floor (forward and backward of the adapter alone), of gradstore, and with prompts
shared; the kernel's bandwidth (its transposing copy included) beside a copy measured in the same run; and the kernel's
and torch's sketch against float64 and against the CPU's. With --data the lengths are those of real questions, one a
line; the tokens are random, for the weights are. ``--layers 2 --hidden 128 --device cpu`` runs the same code anywhere
(with TRITON_INTERPRET=1 the kernel, too), to see that it works.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from extraction import floor
from transformers import LlamaConfig, LlamaForCausalLM
from workload import ATTENTION, Workload

from gradstore.models.adapters import adapter_parameters, add_lora, randomise
from gradstore.models.encoding import Encoded
from gradstore.models.extraction import Item
from gradstore.models.features import Direction, Moments, direction
from gradstore.models.loading import LoadedModel
from gradstore.models.memory import peak_bytes
from gradstore.models.projection import Projector
from gradstore.sketch import Sketch

WORDS_TO_TOKENS = 1.35  # of English text under Llama's tokenizer, about


class Tokenizer:
    pad_token_id = 0


def workload(given: argparse.Namespace, device: torch.device) -> Workload:
    """Weights drawn on the device; 8B parameters from config, never a download."""
    config = LlamaConfig(
        vocab_size=given.vocabulary,
        hidden_size=given.hidden,
        intermediate_size=int(given.hidden * 3.5),
        num_hidden_layers=given.layers,
        num_attention_heads=given.hidden // 128 or 1,
        num_key_value_heads=max(1, given.hidden // 512),
        max_position_embeddings=4096,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        base = LlamaForCausalLM(config).eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    loaded: Any = LoadedModel(base, Tokenizer(), "8B", device, "bfloat16", "sdpa")  # type: ignore[arg-type]
    adapted = add_lora(base, r=given.r, alpha=2 * given.r, targets=ATTENTION, seed=1).to(device)
    parameters = adapter_parameters(adapted)
    randomise(parameters, seed=1)
    g = torch.Generator().manual_seed(2)
    draws = {
        n: (torch.randn(p.shape, generator=g) * 1e-4, torch.rand(p.shape, generator=g) * 1e-7)
        for n, p in parameters.items()
    }
    return Workload("8B", loaded, adapted, Moments(draws, 50, 0.9, 0.999, 1e-8))


def lengths(files: list[Path], count: int) -> list[int]:
    """Prompt lengths in tokens: of the questions in the files, by their words; else drawn like MMLU's."""
    words = [len(line.split()) for f in files for line in f.read_text().splitlines() if line.strip()]
    drawn = np.random.default_rng(0).lognormal(4.3, 0.6, count) if not words else np.resize(words, count)
    return [int(min(1500, 40 + WORDS_TO_TOKENS * n)) for n in drawn]


def pairs(sizes: list[int], vocabulary: int) -> list[tuple[Item, Item]]:
    draws, found = np.random.default_rng(1), []
    for n, size in enumerate(sizes):
        prompt = draws.integers(1, vocabulary, size).tolist()
        replies = ([5, 2], [7, 8, 9, 10, 2])  # a letter, a refusal
        found.append(
            tuple(Item(str(n), r, Encoded(prompt + t, size, "ok")) for r, t in zip("ab", replies, strict=True))
        )
    return found


def timed(run: Callable[[], object], device: torch.device, repeats: int = 1) -> float:
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


def batches(all_pairs: list[tuple[Item, Item]], budget: int, copies: int) -> list[list[tuple[Item, Item]]]:
    ordered = sorted(all_pairs, key=lambda p: len(p[0].encoded.ids))
    found: list[list[tuple[Item, Item]]] = [[]]
    for pair in ordered:
        if found[-1] and (len(found[-1]) + 1) * copies * len(pair[1].encoded.ids) > budget:
            found.append([])
        found[-1].append(pair)
    return found


def speed(work: Workload, all_pairs: list[tuple[Item, Item]], budget: int) -> dict[str, Any]:
    extractor, device = work.extractor(), work.loaded.device
    apart, shared = batches(all_pairs, budget, 2), batches(all_pairs, budget, 1)
    rows = 2 * len(all_pairs)
    tokens = sum(len(i.encoded.ids) for p in all_pairs for i in p)
    ways: dict[str, Callable[[], object]] = {
        "floor": lambda: [floor(work, extractor, [i.encoded for p in b for i in p]) for b in apart],
        "gradstore": lambda: [extractor.rows([i for p in b for i in p]) for b in apart],
        "gradstore, prompts shared": lambda: [extractor.pair_rows(b) for b in shared],
    }
    found: dict[str, Any] = {}
    for name, run in ways.items():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = timed(run, device)
        found[name] = {
            "rows_per_s": rows / seconds,
            "tokens_per_s": tokens / seconds,
            "peak_gb": peak_bytes(device) / 1e9,
        }
        found[name]["to_floor"] = found["floor"]["rows_per_s"] / found[name]["rows_per_s"]
    extractor.close()
    return found


def kernel(device: torch.device, size: int, rows: int) -> dict[str, Any]:
    """One parameter's gradients through each backend: bytes of g, m and v read once, over the time it took."""
    g = torch.randn(rows, size, device=device) * 1e-3
    m, v = torch.randn(size) * 1e-3, torch.rand(size) * 1e-6
    gamma = direction("adam", "w", Moments({"w": (m, v)}, 9, 0.9, 0.999, 1e-8), device)
    moved = 4 * (g.numel() + 2 * size)
    other = torch.empty_like(g)
    repeats = 20 if device.type == "cuda" else 1
    copy = 2 * 4 * g.numel() / timed(lambda: other.copy_(g), device, repeats)
    found: dict[str, Any] = {"copy_gb_s": copy / 1e9}
    exact = Projector(Sketch(), torch.device("cpu"), "torch")
    reference = torch.zeros(rows, 8192, dtype=torch.float64)
    at = {"a": gamma.a.cpu().double(), "v": gamma.v.cpu().double()}
    exact.add(reference, "w", g.cpu().double(), Direction(gamma.kind, at["a"], at["v"], gamma.k1, gamma.k2, gamma.e))
    numba = Projector(Sketch(), torch.device("cpu"), "numba")
    cpu = numba.zeros(rows)
    numba.add(cpu, "w", g.cpu(), Direction(gamma.kind, gamma.a.cpu(), gamma.v.cpu(), gamma.k1, gamma.k2, gamma.e))
    for backend in ("triton", "torch"):
        projector = Projector(Sketch(), device, backend)
        out = projector.zeros(rows)
        projector.add(out, "w", g, gamma)
        again = projector.zeros(rows)
        projector.add(again, "w", g, gamma)
        seconds = timed(lambda p=projector: p.add(p.zeros(rows), "w", g, gamma), device, repeats)
        found[backend] = {
            "gb_s": moved / seconds / 1e9,
            "share_of_copy": moved / seconds / copy,
            "error_to_float64": ((out.cpu().double() - reference).norm() / reference.norm()).item(),
            "error_to_cpu": ((out.cpu() - cpu).norm() / cpu.norm()).item(),
            "same_bits_again": torch.equal(out, again),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, nargs="*", default=[])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--batch-tokens", type=int, default=16_384)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=128_256)
    parser.add_argument("--r", type=int, default=64)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    device = torch.device(given.device)
    results: dict[str, Any] = {"kernel": kernel(device, given.r * given.hidden, 64 if device.type == "cuda" else 2)}
    print(json.dumps(results["kernel"], indent=1), flush=True)
    work = workload(given, device)
    made = pairs(lengths(given.data, given.rows // 2), given.vocabulary)
    results["speed"] = speed(work, made, given.batch_tokens)
    print(json.dumps(results["speed"], indent=1))
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
