"""Knowledge flow: what rehearsal does to what a model knows (CRaFT §3, "dynamic conflict")."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from gradstore.errors import SelectionError

BINS = 20


def knowledge_flow(before: pl.Series, after: pl.Series, threshold: float = 0.5, bins: int = BINS) -> dict[str, Any]:
    """Histogram of Δμ = after − before over [−1, 1], for the known and the unknown, and who changed sides.

    ``before``, ``after``: correctness (n,), 0–1, of the same samples. ``unknown_improved`` is the share of the unknown
    whose correctness rose: 69 % on MMLU with LLaMA3-8B (CRaFT §3.2). Raises SelectionError on empty input.
    """
    if not len(before):
        raise SelectionError("no sample was probed both before and after rehearsal: probe the checkpoint first")
    first, second = (s.cast(pl.Float64).to_numpy() for s in (before, after))
    change, known = second - first, first >= threshold
    edges = np.linspace(-1, 1, bins + 1)

    def share(of: np.ndarray) -> float | None:
        return float(of.mean()) if of.size else None

    return {
        "edges": [round(float(e), 6) for e in edges],
        "known": np.histogram(change[known], edges)[0].tolist(),
        "unknown": np.histogram(change[~known], edges)[0].tolist(),
        "unknown_improved": share(change[~known] > 0),
        "known_worsened": share(change[known] < 0),
        "became_known": int((~known & (second >= threshold)).sum()),
        "became_unknown": int((known & (second < threshold)).sum()),
    }
