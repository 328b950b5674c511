"""CountSketch against a dense Rademacher projection regenerated block by block (as LESS does). Ratios of one run.

python benchmarks/sketch.py [parameters] [dim]
"""

import sys
import time

import torch

from gradstore.models.projection import Projector
from gradstore.sketch import Sketch


def dense(features: torch.Tensor, dim: int, block: int = 4096) -> torch.Tensor:
    """features (b, p) → (b, dim) through a ±1 matrix drawn block by block, never held whole."""
    generator = torch.Generator().manual_seed(0)
    out = torch.zeros(len(features), dim)
    for start in range(0, features.shape[1], block):
        part = features[:, start : start + block]
        signs = torch.randint(0, 2, (part.shape[1], dim), generator=generator).float() * 2 - 1
        out += part @ signs
    return out / dim**0.5


def cosines(rows: torch.Tensor) -> torch.Tensor:
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    return (unit @ unit.T)[torch.triu_indices(len(rows), len(rows), 1).unbind()]


def main(parameters: int = 131_072, dim: int = 8192, rows: int = 16) -> None:
    """Print time a sample, and how well each keeps pairwise cosines."""
    generator = torch.Generator().manual_seed(1)
    shared = torch.randn(1, parameters, generator=generator)
    features = shared + torch.randn(rows, parameters, generator=generator)
    projector = Projector(Sketch(dim=dim), torch.device("cpu"))
    projector.add(projector.zeros(rows), "p", features)  # makes the buckets
    started = time.perf_counter()
    block = projector.zeros(rows)
    projector.add(block, "p", features)
    ours = (time.perf_counter() - started) / rows
    started = time.perf_counter()
    full = dense(features, dim)
    theirs = (time.perf_counter() - started) / rows
    exact = cosines(features)
    errors = [(cosines(x) - exact).abs().mean().item() for x in (block.T, full)]
    print(f"projection of {parameters} parameters to {dim}, milliseconds a sample:")
    print(f"  CountSketch {ours * 1e3:.2f}, dense {theirs * 1e3:.0f}: {theirs / ours:.0f} times as long")
    print(f"  mean error of a cosine {errors[0]:.4f} against {errors[1]:.4f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
