"""How much memory extraction takes: said before, measured after, and what to do when it was not enough."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from gradstore.models.adapters import adapter_parameters
from gradstore.sketch import Sketch

OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
SMALLEST, LARGEST = 512, 131_072  # batch tokens that are tried
SHARE = 0.85  # of a card's free memory that a batch may fill
HOOKED, KEPT = 4, 34  # hidden vectors a token and layer that the hooks keep; that autograd keeps, as measured
PROCESS = 600_000_000  # bytes that the libraries take before there is a model


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a failure means that a batch was too large, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)


def release(device: torch.device) -> None:
    """Give back what a failed batch left in the allocator."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def estimate_bytes(adapted: Any, sketch: Sketch, batch_tokens: int, moments: bool) -> int:
    """About how many bytes extraction will hold: weights, moments, hashes, and the activations of one batch.

    Activations are counted from the shape of the model (hidden vectors and MLP widths a layer), so a factor of two is
    to be expected; the summary of a run has the measured peak.
    """
    config = adapted.config.get_text_config()
    hidden = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    size = next(adapted.parameters()).element_size()
    weights = sum(p.numel() * p.element_size() for p in adapted.parameters())
    trained = sum(p.numel() for p in adapter_parameters(adapted).values())
    tables = trained * (4 * sketch.sparsity * (sketch.kind == "countsketch") + 8 * moments)
    activations = config.num_hidden_layers * ((HOOKED + KEPT) * hidden + 4 * inner) * size
    process = 0 if next(adapted.parameters()).is_cuda else PROCESS
    return int(process + weights + tables + batch_tokens * activations)


def peak_bytes(device: torch.device) -> int:
    """The most memory this process has held: of the card on CUDA, resident elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss of a child begins with its parent's peak; this does not
        return int(next(x for x in status.read_text().splitlines() if x.startswith("VmHWM")).split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def find_batch_tokens(run: Callable[[int], None], device: torch.device, longest: int) -> int:
    """Padded tokens a batch: on CUDA the most that fit, elsewhere where throughput stops growing.

    ``run(tokens)`` extracts one batch of about that many tokens; ``longest`` is the longest row. A power of two. A
    size that does not fit ends the search; where none does, the smallest is returned, and extraction will say so.
    """
    sizes = [n for n in _powers(SMALLEST, LARGEST) if n >= longest] or [longest]
    fits = []

    def tried(tokens: int) -> None:
        run(tokens)
        fits.append(tokens)

    try:
        return _that_fits(tried, device, sizes) if device.type == "cuda" else _fastest(tried, sizes)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    release(device)
    return max(fits, default=sizes[0])


def _that_fits(run: Callable[[int], None], device: torch.device, sizes: Sequence[int]) -> int:
    peaks = []
    for tokens in sizes[:2]:
        torch.cuda.reset_peak_memory_stats(device)
        run(tokens)
        peaks.append(torch.cuda.max_memory_allocated(device))
    a_token = max(1.0, (peaks[-1] - peaks[0]) / max(1, sizes[len(peaks) - 1] - sizes[0]))
    free = SHARE * (torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
    fitting = [n for n in sizes if peaks[0] + (n - sizes[0]) * a_token <= free]
    return max(fitting, default=sizes[0])


def _fastest(run: Callable[[int], None], sizes: Sequence[int]) -> int:
    run(sizes[0])  # compiles kernels, makes hashes
    best, rate = sizes[0], 0.0
    for tokens in sizes:
        started = time.perf_counter()
        run(tokens)
        found = tokens / (time.perf_counter() - started)
        if found < 1.03 * rate:
            break
        best, rate = tokens, found
    return best


def _powers(first: int, last: int) -> list[int]:
    return [1 << n for n in range(first.bit_length() - 1, last.bit_length())]
