"""Static conflict: refusals that lie next to kept answers, so that training pulls one spot both ways.

CRSS, conflict rate for similar samples (CRaFT §3, arXiv 2410.06913): the share of refusals whose largest cosine with
any kept sample exceeds τ. CRaFT takes the last layer's hidden state of the question; any unit rows do, gradients too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradstore.errors import SelectionError

THRESHOLDS = (0.90, 0.95, 0.97, 0.99)  # CRaFT highlights .97
BLOCK = 1024


def nearest_kept(refused: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Largest cosine of each refused row with any kept one: (n, d), (m, d) → (n,) float64; zero rows have cosine 0.

    At most BLOCK × m products are held at once. Raises SelectionError where either side is empty.
    """
    if not len(refused) or not len(kept):
        raise SelectionError(f"{len(refused)} refusals and {len(kept)} answers: a conflict needs at least one of each")
    unit = _unit(kept).T
    parts = [(_unit(refused[i : i + BLOCK]) @ unit).max(axis=1) for i in range(0, len(refused), BLOCK)]
    return np.concatenate(parts)


def crss(nearest: np.ndarray, thresholds: Sequence[float] = THRESHOLDS) -> dict[float, float]:
    """Threshold → share of refusals whose ``nearest`` (n,) kept sample is more similar than that."""
    return {t: float((nearest > t).mean()) for t in thresholds}


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)
