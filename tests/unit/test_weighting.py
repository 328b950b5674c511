"""Weights of the unknown side: which sign, how unequal, how large."""

import numpy as np
import pytest

from gradstore.errors import SelectionError
from gradstore.weighting import effective_size, spread_excess, temperature_for, weigh
from tests import reference

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


@pytest.mark.parametrize("n", [1, 2, 7])
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
        ({"rule": "best"}, "weight rule 'best': expected intent, reference, uniform"),
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
