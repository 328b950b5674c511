"""What a selection holds of the group it was made from: numbers that say why one method beats another."""

from __future__ import annotations

import numpy as np

from gradstore.errors import SelectionError
from gradstore.kernels.half import dot
from gradstore.selection.pool import mean_of, widened

BLOCK = 1024


def coverage(rows: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
    """``rows`` (n, dim) and ``chosen`` (k, dim) unit gradients as uint16 (bits of float16).

    * ``coverage``: mean over the group of the cosine with the nearest chosen sample, −1 to 1.
    * ``redundancy``: mean over the chosen of the cosine with the nearest *other* chosen one; 0 for k = 1.
    * ``mean_gap``: distance of the two mean gradients, over the norm of the group's: 0 if the chosen pull alike.
    * ``mean_cosine``: cosine of the two means.

    Raises SelectionError where either is empty.
    """
    if not len(rows) or not len(chosen):
        raise SelectionError(f"{len(chosen)} chosen of {len(rows)}: coverage needs at least one of each")
    targets = widened(chosen)
    nearest = [dot(rows[i : i + BLOCK], targets).max(axis=1) for i in range(0, len(rows), BLOCK)]
    among = dot(chosen, targets)
    np.fill_diagonal(among, -np.inf)
    whole, part = mean_of(rows), mean_of(chosen)
    norms = float(np.linalg.norm(whole)), float(np.linalg.norm(part))
    return {
        "coverage": float(np.concatenate(nearest).mean()),
        "redundancy": float(among.max(axis=1).mean()) if len(chosen) > 1 else 0.0,
        "mean_gap": float(np.linalg.norm(part - whole)) / norms[0],
        "mean_cosine": float(part @ whole) / (norms[0] * norms[1]),
    }
