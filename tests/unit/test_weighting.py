"""Weights: which sign, how unequal, how large, and what they add up to."""

from functools import cache

import numpy as np
import polars as pl
import pytest

from gradstore.errors import SelectionError
from gradstore.methods import METHODS, WEIGHTS
from gradstore.selection.pool import mean_of, widened
from gradstore.weighting import (
    effective_size,
    match_mean,
    on_simplex,
    spread_excess,
    temperature_for,
    weigh,
    weigh_by_share,
)
from tests import reference
from tests import reference_selection as twin
from tests.reference_selection import unit_rows
from tests.unit.test_selection import Selection, run, usable

RNG = np.random.default_rng(0)
I_REF, I_OVER = RNG.normal(0.2, 0.01, 40), RNG.normal(0.1, 0.01, 40)


@pytest.mark.parametrize(("rule", "sign"), [("intent", 1), ("reference", -1)])
def test_softmax_equals_the_formula(rule, sign):
    found = weigh(I_REF, I_OVER, rule, temperature=0.01, total=20)
    twin = reference.grait_weights(I_REF.tolist(), I_OVER.tolist(), 0.01, 20, sign)
    np.testing.assert_allclose(found.weights, twin, rtol=1e-12)
    assert found.temperature == 0.01
    assert found.effective_size == pytest.approx(reference.effective_size(twin))


def test_intent_and_reference_differ_in_sign():
    i_ref, i_over = np.array([0.9, 0.1]), np.array([0.1, 0.9])
    intent, released = (weigh(i_ref, i_over, r, temperature=0.5).weights for r in ("intent", "reference"))
    assert intent[0] > intent[1], "the sample that teaches refusing unknowns most must weigh most"
    assert released[0] < released[1], "the released code is the other way round, and reference is to reproduce it"


def test_reference_is_the_released_temperature_and_half_the_total():
    found = weigh(I_REF, I_OVER, "reference")
    twin = reference.grait_weights(I_REF.tolist(), I_OVER.tolist(), 0.05, 20, -1)
    np.testing.assert_allclose(found.weights, twin, rtol=1e-12)
    assert found.temperature == 0.05


@pytest.mark.parametrize("ess", [1.5, 2, 10, 20, 39, 39.9])
@pytest.mark.parametrize("scale", [1e-6, 1, 1e3])
@pytest.mark.parametrize("rule", ["intent", "reference"])
def test_the_effective_size_asked_for_is_met_whatever_the_scale(ess, scale, rule):
    found = weigh(I_REF * scale, I_OVER * scale, rule, ess=ess)
    assert found.effective_size == pytest.approx(ess, abs=1e-6)
    assert reference.effective_size(found.weights.tolist()) == pytest.approx(ess, abs=1e-6)


def test_the_default_is_half_the_samples_and_mean_weight_one():
    found = weigh(I_REF, I_OVER)
    assert found.effective_size == pytest.approx(20, abs=1e-6)
    assert found.weights.mean() == pytest.approx(1)


def test_one_far_outlier_does_not_keep_the_target_from_being_met():
    score = np.concatenate([[-1.0], np.linspace(0, 1e-9, 9)])
    assert weigh(score, np.zeros(10), ess=5).effective_size == pytest.approx(5, abs=1e-6)


def test_a_target_below_the_number_of_tied_maxima_gives_those_equal_weight():
    found = weigh(np.array([1.0, 1.0, 1.0, 0.0]), np.zeros(4), ess=2)
    assert found.weights == pytest.approx([4 / 3, 4 / 3, 4 / 3, 0])


@pytest.mark.parametrize("n", [1, 2, 7, 49, 1000])
def test_equal_scores_weigh_the_same(n):
    found = weigh(np.full(n, 0.3), np.full(n, 0.1))
    assert found.weights.tolist() == [1.0] * n
    assert found.temperature is None
    assert found.effective_size == n


def test_uniform_looks_at_no_score():
    found = weigh(I_REF, I_OVER, "uniform", total=10)
    assert found.weights.tolist() == [0.25] * 40
    assert found.temperature is None


@pytest.mark.parametrize(("rule", "mean"), [("intent", 1), ("reference", 0.5), ("uniform", 1)])
def test_totals(rule, mean):
    assert weigh(I_REF, I_OVER, rule).weights.mean() == pytest.approx(mean)
    assert weigh(I_REF, I_OVER, rule, total=3).weights.sum() == pytest.approx(3)


def test_huge_scores_neither_overflow_nor_lose_their_order():
    found = weigh(np.array([1e300, 0.0, -1e300]), np.zeros(3), temperature=1.0)
    assert found.weights.tolist() == [3.0, 0.0, 0.0]


def test_a_cap_spreads_what_exceeds_it_as_the_twin():
    found = weigh(I_REF, I_OVER, ess=4, cap=3.0).weights
    twin = reference.capped(weigh(I_REF, I_OVER, ess=4).weights.tolist(), 3.0)
    np.testing.assert_allclose(found, twin, rtol=1e-9)
    assert found.max() == 3.0


def test_a_cap_of_the_mean_makes_all_equal():
    np.testing.assert_allclose(spread_excess(np.array([4.0, 1.0, 1.0]), 2.0), [2, 2, 2])


@pytest.mark.parametrize("tail", [0.0, 1e-300, 5e-324])
def test_a_cap_spreads_over_weights_that_are_next_to_nothing(tail):
    found = spread_excess(np.array([10.0, tail, tail]), 5.0)
    np.testing.assert_allclose(found, [5.0, 2.5, 2.5])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"rule": "best"}, "weight rule 'best' is not one of influences: expected intent, reference, uniform"),
        ({"temperature": 0.1, "ess": 3}, "both a temperature and an effective sample size came: give one"),
        ({"temperature": 0}, "temperature 0: expected more than 0"),
        ({"temperature": -1.0}, "temperature -1.0: expected more than 0"),
        ({"temperature": float("nan")}, "temperature nan: expected more than 0"),
        ({"ess": 0.5}, "effective sample size 0.5, expected 1 to 40"),
        ({"ess": 41}, "effective sample size 41, expected 1 to 40, the number of selected unknowns"),
        ({"ess": float("nan")}, "effective sample size nan, expected 1 to 40"),
        ({"cap": 0.9}, "a cap of 0.9 on 40 weights holds at most 36, their total is 40: raise --cap or lower"),
        ({"cap": float("nan")}, "a cap of nan on 40 weights"),
        ({"total": -1.0}, "weight total -1.0: expected more than 0"),
        ({"total": 0}, "weight total 0: expected more than 0"),
        ({"total": float("nan")}, "weight total nan"),
        ({"total": float("inf")}, "weight total inf"),
    ],
)
def test_impossible_settings_say_what_to_give(asked, message):
    with pytest.raises(SelectionError, match=message):
        weigh(I_REF, I_OVER, **asked)


def test_effective_size_is_one_for_one_hot_and_n_for_equal():
    assert effective_size(np.array([0.0, 3.0, 0.0])) == 1
    assert effective_size(np.full(5, 0.2)) == pytest.approx(5)
    assert effective_size(np.zeros(3)) == 0


def test_a_larger_target_needs_a_higher_temperature():
    taus = [temperature_for(I_REF - I_OVER, ess) for ess in (2, 10, 30)]
    assert taus == sorted(taus)
    assert len(set(taus)) == 3


# -- by share --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [*range(1, 60), 107, 999])
def test_equal_shares_weigh_exactly_one(n):
    """1/49·49 is 0.9999999999999999, and so would be the weight of every known sample of an export."""
    for level in (1.0, 1 / n, 1e-300, 5e-324, 1e300 / n):
        assert weigh_by_share(np.full(n, level)).weights.tolist() == [1.0] * n


def test_shares_are_kept_in_proportion_whatever_their_scale():
    shares = np.random.default_rng(1).random(30)
    expected = twin.scaled(shares.tolist(), 12)
    for scale in (1e-300, 1.0, 1e300):
        found = weigh_by_share(shares * scale, total=12)
        np.testing.assert_allclose(found.weights, expected, rtol=1e-12)
        assert found.effective_size == pytest.approx(reference.effective_size(expected))
        assert found.temperature is None


def test_shares_of_zero_alone_count_as_equal():
    assert weigh_by_share(np.zeros(3), total=6).weights.tolist() == [2.0] * 3
    assert weigh_by_share(np.array([0.0, 2.0, 0.0])).weights.tolist() == [0.0, 3.0, 0.0]
    assert weigh_by_share(np.array([])).weights.tolist() == []


# -- mean matching ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "whole", "k", "dim"),
    [
        ("random", 40, 12, 24),
        ("random", 40, 12, 6),
        ("copies", 40, 12, 6),
        ("one direction", 20, 5, 8),
        ("all", 9, 9, 16),
        ("few", 30, 2, 8),
        ("one", 30, 1, 8),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_mean_matching_reaches_the_certified_optimum(kind, whole, k, dim, seed):
    """w ≥ 0, Σw = 1, and no such w is nearer by more than 1e-9, which the duality gap proves without any solver."""
    rows = unit_rows(whole, dim, {"copies": 4, "one direction": 1}.get(kind, whole), seed)
    floats, mu = widened(rows[:k]).tolist(), mean_of(rows)
    weights = match_mean(rows[:k], mu)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert twin.optimality_gap(floats, weights.tolist(), mu.tolist()) < 1e-6
    slow = twin.mean_matching(floats, mu.tolist(), gap=1e-8)
    errors = [twin.mean_error(floats, list(w), mu.tolist()) for w in (weights, slow)]
    assert errors[0] <= errors[1] + 1e-9
    assert errors[0] <= twin.mean_error(floats, [1 / k] * k, mu.tolist()) + 1e-15, "worse than uniform"
    if kind == "all":
        assert errors[0] < 1e-12, "the mean of all is their mean"


def test_mean_matching_gives_no_weight_to_what_pulls_the_other_way():
    rows = np.array([[1, 0, 0], [0, 1, 0], [0, 0, -1]], np.float16).view(np.uint16)
    np.testing.assert_allclose(match_mean(rows, np.array([0.3, 0.7, 0.0])), [0.3, 0.7, 0], atol=1e-9)
    np.testing.assert_allclose(match_mean(rows, np.array([0.0, 5.0, 9.0])), [0, 1, 0], atol=1e-9)
    zero = np.zeros((4, 3), np.uint16)
    assert match_mean(zero, np.ones(3)).tolist() == [0.25] * 4


@pytest.mark.parametrize("x", [[0.2, 0.8], [5.0, 1.0, -3.0], [0.0] * 4, [-1.0, -1.5], [1e6, 1e6 - 0.25], [7.0]])
def test_the_nearest_point_of_the_simplex(x):
    found = on_simplex(np.array(x))
    assert (found >= 0).all()
    assert found.sum() == pytest.approx(1)
    shift = {round(a - b, 6) for a, b in zip(x, found, strict=True) if b > 0}
    assert len(shift) == 1, "what is not 0 is shifted by one number (the conditions of Karush, Kuhn and Tucker)"
    assert all(a <= shift.copy().pop() + 1e-6 for a, b in zip(x, found, strict=True) if b == 0)


# -- of a selection --------------------------------------------------------------------------------------------

cached = cache(twin.world)
SIDES = ("known", "unknown")


def weighed(weights: str, kind: str = "smooth", **settings) -> Selection:
    given = cached(kind)
    return run(given, **({"method": "herding", "weights": weights, "known": 11, "unknown": 9} | settings))


def of_side(found: Selection, side: str) -> pl.DataFrame:
    return found.rows.filter(side=side).sort("rank")


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("kind", ["smooth", "copies", "equal"])
def test_both_sides_add_up_to_their_number_and_what_is_recorded_is_theirs(weights, kind):
    given = cached(kind).with_columns(i_ref=pl.col("i_ref").fill_null(0.03))
    found = run(given, method="herding", weights=weights, known=11, unknown=9)
    for side, number in zip(SIDES, (11, 9), strict=True):
        stored = of_side(found, side)["weight"].to_list()
        recorded = getattr(found, side)
        assert stored == recorded.weights.tolist()
        assert min(stored) >= 0
        half = weights == "reference" and side == "unknown"
        assert sum(stored) == pytest.approx(number / 2 if half else number)
        assert recorded.effective_size == pytest.approx(reference.effective_size(stored))
        softmax = weights in ("intent", "reference") and side == "unknown"
        assert (recorded.temperature is not None) == (softmax and (kind != "equal" or weights == "reference"))
    if weights in ("uniform", "intent", "reference", "multiplicity"):
        assert of_side(found, "known")["weight"].to_list() == [1.0] * 11


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_total_is_of_the_unknown_side(weights):
    found = weighed(weights, weight_total=3.0)
    assert of_side(found, "unknown")["weight"].sum() == pytest.approx(3)
    assert of_side(found, "known")["weight"].sum() == pytest.approx(11)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_no_weight_exceeds_the_cap(weights):
    loose, tight = weighed(weights), weighed(weights, cap=1.2)
    for side in SIDES:
        free, capped = (of_side(f, side)["weight"].to_list() for f in (loose, tight))
        assert max(capped) <= 1.2
        assert sum(capped) == pytest.approx(sum(free))
        if min(free) > 0:
            np.testing.assert_allclose(capped, reference.capped(free, 1.2), rtol=1e-9)
    assert tight.unknown.effective_size >= loose.unknown.effective_size - 1e-9


@pytest.mark.parametrize("kind", ["smooth", "ties"])
def test_knowledge_weighs_by_what_is_known_and_what_is_not(kind):
    found = weighed("knowledge", kind)
    for side in SIDES:
        rows = of_side(found, side)
        expected = twin.knowledge_weights(rows["correctness"].to_list(), side == "known")
        np.testing.assert_allclose(rows["weight"], expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["smooth", "ties", "copies"])
def test_craigs_weights_are_the_sizes_of_the_neighbourhoods(kind):
    given = cached(kind)
    found = run(given, method="craig", known=6, unknown=5)
    for side, response in zip(SIDES, ("answer", "refusal"), strict=True):
        parts = twin.by_correctness(usable(given), 0.5, "known")[side]
        held, chosen = given.floats(response), of_side(found, side)
        sizes = twin.cluster_sizes(
            [held[r["sample_id"]] for r in parts], [held[i] for i in chosen["sample_id"].to_list()]
        )
        assert sum(sizes) == len(parts)
        np.testing.assert_allclose(chosen["weight"], twin.scaled(sizes, chosen.height), rtol=1e-12)


@pytest.mark.parametrize("kind", ["smooth", "ties", "copies"])
def test_gradmatchs_weights_make_the_chosen_pull_as_their_whole_side(kind):
    given = cached(kind)
    found = run(given, method="gradmatch", known=8, unknown=8)
    for side, response in zip(SIDES, ("answer", "refusal"), strict=True):
        held, chosen = given.floats(response), of_side(found, side)
        parts = twin.by_correctness(usable(given), 0.5, "known")[side]
        mu = twin.mean_vector([held[r["sample_id"]] for r in parts])
        rows, shares = [held[i] for i in chosen["sample_id"]], (chosen["weight"] / chosen.height).to_list()
        assert sum(shares) == pytest.approx(1)
        assert twin.optimality_gap(rows, shares, mu) < 1e-6


def test_multiplicity_of_a_rule_that_draws_once_is_one():
    """Its scores are influences, which are no counts and may be negative."""
    found = weighed("multiplicity", method="grait")
    assert of_side(found, "unknown")["weight"].to_list() == [1.0] * 9
    assert of_side(found, "unknown")["score"].min() < 0 or of_side(found, "unknown")["score"].max() < 1


@pytest.mark.parametrize(("rule", "sign"), [("intent", 1), ("reference", -1)])
def test_the_softmax_of_a_selection_is_that_of_its_influences(rule, sign):
    found = of_side(weighed(rule, method="grait", temperature=0.02, weight_total=9.0), "unknown")
    expected = reference.grait_weights(found["i_ref"].to_list(), found["i_over"].to_list(), 0.02, 9.0, sign)
    np.testing.assert_allclose(found["weight"], expected, rtol=1e-9)


def test_equal_influences_weigh_the_same_and_no_temperature_is_made_up():
    """There is nothing to tell the samples apart by: any τ gives these weights, so none is recorded, and it is no
    error, even where another effective size was asked for."""
    for ess in (None, 3):
        found = weighed("intent", "equal", method="grait", ess=ess)
        assert found.unknown.weights.tolist() == [1.0] * 9
        assert (found.unknown.temperature, found.unknown.effective_size) == (None, 9)


@pytest.mark.parametrize("method", [m for m, t in METHODS.items() if t.weights == "uniform"])
def test_uniform_is_one_for_everybody(method):
    found = run(cached("smooth"), method=method, known=7, unknown=7)
    assert found.rows["weight"].drop_nulls().to_list() == [1.0] * 14
    assert (found.known.effective_size, found.unknown.effective_size) == (7, 7)
