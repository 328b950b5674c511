"""Comparisons over seeds: paired, corrected for their number; frontiers that interpolate nothing."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradstore.errors import GradstoreError
from gradstore.evaluation.comparison import frontier, frontier_area, holm, paired_over_seeds

points = st.lists(st.tuples(st.floats(0, 0.3), st.floats(0, 1)), max_size=8)


def test_the_interval_is_the_textbook_paired_t():
    a, b = [0.10, 0.12, 0.08, 0.11, 0.09], [0.15, 0.14, 0.12, 0.18, 0.11]
    gaps = [y - x for x, y in zip(a, b, strict=True)]
    mean = math.fsum(gaps) / 5
    error = math.sqrt(math.fsum((g - mean) ** 2 for g in gaps) / 4 / 5)
    found = paired_over_seeds(a, b)
    assert found.mean == pytest.approx(mean)
    assert (found.low, found.high) == pytest.approx((mean - 2.776445 * error, mean + 2.776445 * error), rel=1e-6)
    assert found.n == 5


def test_p_is_the_share_of_null_draws_that_are_as_far_off():
    draws = np.random.default_rng(0).normal(size=(4000, 5))
    p = np.array([paired_over_seeds([0] * 5, row.tolist()).p for row in draws])
    assert abs((p < 0.05).mean() - 0.05) < 0.012, "5 % of comparisons without a difference must seem to have one"


def test_pairing_removes_what_both_share():
    shared = np.random.default_rng(1).normal(size=6) * 10
    gap = np.array([1.0, 1.1, 0.9, 1.05, 0.95, 1.0])
    found = paired_over_seeds(shared.tolist(), (shared + gap).tolist())
    assert found.mean == pytest.approx(1)
    assert found.high - found.low < 0.2


def test_equal_differences_and_single_seeds():
    assert paired_over_seeds([1, 2], [1, 2]).p == 1.0
    assert paired_over_seeds([1, 2], [2, 3]).p == 0.0
    alone = paired_over_seeds([1], [3])
    assert (alone.mean, alone.low, alone.high, alone.p) == (2, None, None, None)
    with pytest.raises(GradstoreError, match="2 and 1 results cannot be paired: run both methods on the same seeds"):
        paired_over_seeds([1, 2], [1])


def test_holm_is_the_step_down_example():
    # sorted: .005·4, .01·3, .03·2, .04·1 → running maximum
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


@given(points)
def test_the_area_is_the_mean_of_the_best_reached_at_each_over_refusal(found):
    limit, grid = 0.1, 20_000
    levels = (np.arange(grid) + 0.5) * limit / grid
    naive = np.zeros(grid)
    for over, fixed in found:
        naive = np.where(levels >= over, np.maximum(naive, fixed), naive)
    assert frontier_area(found, limit) == pytest.approx(naive.mean(), abs=1e-3)


@given(points)
def test_no_point_beats_the_frontier(found):
    best = frontier(found)
    assert best == sorted(best)
    for over, fixed in found:
        assert any(o <= over and f >= fixed for o, f in best)


def test_a_method_that_never_refuses_has_no_area():
    assert frontier_area([(0.0, 0.0), (0.0, 0.0)]) == 0
    assert frontier_area([]) == 0
    assert frontier_area([(0.0, 1.0)]) == 1
