"""The loss weights of a selection's two sides, by the rule of its method."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gradstore.errors import SelectionError
from gradstore.methods import Method
from gradstore.selection.facility import nearest
from gradstore.selection.pool import Pool, mean_of
from gradstore.selection.released import DRAWS
from gradstore.selection.settings import KNOWN, UNKNOWN, Settings
from gradstore.weighting import SOFTMAX, Weights, match_mean, weigh, weigh_by_share

TWO_SIDED = ("mean-matching", "cluster-size", "knowledge")


def weights_of(method: Method, settings: Settings, pools: Mapping[str, tuple[Pool, Pool]]) -> dict[str, Weights]:
    """Weights of each side, in order of rank; ``pools`` holds (whole side, chosen) by side.

    Softmax rules weigh the unknown side alone, the known one keeps weight 1 (GRAIT). Two-sided rules weigh both; a
    side's total stays its number (of draws, for ``multiplicity``), so methods differ in how weight is spread and not
    in how much there is.
    """
    rule = method.weights
    whole, chosen = pools[UNKNOWN]
    amount = {"total": settings.weight_total, "cap": settings.cap}
    if rule in SOFTMAX:
        frame = chosen.frame
        if frame["i_ref"].null_count() or frame["i_over"].null_count():
            raise SelectionError(
                f"weights {rule!r} need influences, which {settings.method} did not compute: use uniform"
            )
        softmax = {"temperature": settings.temperature, "ess": settings.ess}
        unknown = weigh(frame["i_ref"].to_numpy(), frame["i_over"].to_numpy(), rule, **softmax, **amount)
        return {KNOWN: _ones(pools[KNOWN][1]), UNKNOWN: unknown}
    if settings.temperature is not None or settings.ess is not None:
        raise SelectionError(f"weights {rule!r} have no temperature: leave out --temperature and --ess, or use intent")
    if rule == "multiplicity":
        return {
            KNOWN: _times(method.known, pools[KNOWN][1], None, settings.cap),
            UNKNOWN: _times(method.unknown, chosen, **amount),
        }
    unknown = weigh_by_share(_shares(rule, whole, chosen), **amount)
    if rule not in TWO_SIDED:
        return {KNOWN: _ones(pools[KNOWN][1]), UNKNOWN: unknown}
    return {KNOWN: weigh_by_share(_shares(rule, *pools[KNOWN]), cap=settings.cap), UNKNOWN: unknown}


def _times(rule: str, chosen: Pool, total: float | None, cap: float | None) -> Weights:
    """How often each sample was drawn, which a rule that draws with replacement has as its score; 1 for other rules."""
    times = chosen.frame["rank_score"].to_numpy() if rule in DRAWS else np.ones(chosen.frame.height)
    return weigh_by_share(times, total=float(times.sum()) if total is None else total, cap=cap)


def _shares(rule: str, whole: Pool, chosen: Pool) -> np.ndarray:
    """What each chosen sample is to weigh, up to a factor: (k,) ≥ 0."""
    n = chosen.frame.height
    if rule == "knowledge":
        level = chosen.frame["correctness"].cast(float).to_numpy()
        return level if chosen.side == KNOWN else 1 - level
    if rule == "cluster-size":
        return nearest(whole.rows(), chosen.rows()).astype(np.float64)
    if rule == "mean-matching":
        return match_mean(chosen.rows(), mean_of(whole.rows()))
    return np.ones(n)


def _ones(pool: Pool) -> Weights:
    return weigh_by_share(np.ones(pool.frame.height))
