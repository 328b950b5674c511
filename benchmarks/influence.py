"""Group means against the N×N product of the released GRAIT code, for the same numbers. Ratios of one run.

python benchmarks/influence.py [rows] [dim]
"""

import resource
import sys
import time

import numpy as np
import pyarrow as pa

from gradstore.influence import influence


def main(rows: int = 8000, dim: int = 8192) -> None:
    """Print time and memory of both ways, and the largest difference of a score."""
    draws = np.random.default_rng(0)
    unit = draws.standard_normal((rows, dim), dtype=np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    half = unit.astype(np.float16)
    ids = [f"{i:06d}" for i in range(rows)]
    groups = {"known": ids[: rows // 2], "unknown": ids[rows // 2 :]}

    def stream(checkpoint: str):
        for start in range(0, rows, 1024):
            part = slice(start, start + 1024)
            yield pa.RecordBatch.from_pydict({"sample_id": ids[part]}), half[part].view(np.uint16)

    influence(stream, {"all": ids[:8]}, {"c": 1.0})  # compiles the kernels
    started = time.perf_counter()
    scores, _ = influence(stream, groups, {"c": 1.0})
    ours = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    wide = half.astype(np.float32)
    gram = wide @ wide.T
    theirs = np.stack([gram[:, : rows // 2].mean(1), gram[:, rows // 2 :].mean(1)], axis=1)
    gram_time = time.perf_counter() - started
    extra = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    error = np.abs(scores.select("known", "unknown").to_numpy() - theirs).max()
    print(f"influence of {rows} rows x {dim} on two groups: group means {ours:.2f} s, N x N {gram_time:.2f} s")
    print(f"  N x N takes {gram_time / ours:.1f} times as long, and {extra / 1024:.0f} MiB more")
    print(f"  largest difference of a score {error:.1e}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
