"""Intervals from multinomial counts are those of questions drawn with replacement, and pairs are drawn together."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradstore.evaluation import AGAINST, ALONE, VERDICTS, against, alone, joint_counts, paired
from gradstore.evaluation.intervals import interval, resampled
from tests import reference_evaluation

C, W, R, U = VERDICTS
SHARES = (0.45, 0.3, 0.2, 0.05)


def world(n: int, seed: int) -> tuple[list[str], list[str], list[str]]:
    """Verdicts of an initial model and of two refined ones that mostly agree."""
    generator = random.Random(seed)
    initial = generator.choices([C, W], [0.6, 0.4], k=n)
    a = [generator.choice([before, before, R]) for before in initial]
    b = [generator.choice([v, v, v, R, C]) for v in a]
    return initial, a, b


@pytest.mark.parametrize("name", [*ALONE, *AGAINST])
def test_the_interval_is_that_of_lists_drawn_question_by_question(name):
    initial, refined, _ = world(80, 0)
    pairs = list(zip(initial, refined, strict=True))
    found = (alone(refined, resamples=4000) | against(initial, refined, resamples=4000))[name]
    low, high = reference_evaluation.bootstrap(pairs, lambda d: reference_evaluation.numbers(d)[name], 1000, seed=3)
    assert found.value == pytest.approx(reference_evaluation.numbers(pairs)[name])
    assert found.low == pytest.approx(low, abs=0.03)
    assert found.high == pytest.approx(high, abs=0.03)
    assert found.n == 80


def test_every_drawn_table_is_a_list_of_questions_and_gives_its_metrics():
    initial, refined, _ = world(30, 1)
    counts = joint_counts(initial, refined)
    drawn = resampled(counts, 50, seed=0)
    assert (drawn.sum(axis=(1, 2)) == 30).all()
    assert (drawn[:, counts == 0] == 0).all(), "a combination that never came was drawn"
    for name, formula in AGAINST.items():
        for table, value in zip(drawn, formula(drawn), strict=True):
            pairs = [(VERDICTS[i], VERDICTS[j]) for (i, j), n in np.ndenumerate(table) for _ in range(n)]
            expected = reference_evaluation.numbers(pairs)[name]
            assert np.isnan(value) if expected is None else value == pytest.approx(expected)


def test_paired_intervals_are_those_of_both_models_on_the_same_drawn_questions():
    initial, a, b = world(80, 2)
    triples = list(zip(initial, a, b, strict=True))
    found = paired(initial, a, b, resamples=4000)
    assert found.keys() == ALONE.keys() | AGAINST.keys()
    for name in ("correct", "ths", "over_refusal"):

        def difference(drawn, name=name):
            of_a = reference_evaluation.numbers([(i, x) for i, x, _ in drawn])[name]
            of_b = reference_evaluation.numbers([(i, y) for i, _, y in drawn])[name]
            return None if of_a is None or of_b is None else of_b - of_a

        low, high = reference_evaluation.bootstrap(triples, difference, 1000, seed=4)
        assert found[name].value == pytest.approx(difference(triples))
        assert (found[name].low, found[name].high) == (pytest.approx(low, abs=0.03), pytest.approx(high, abs=0.03))


def test_pairing_is_what_makes_a_difference_visible():
    """b refuses five mistakes more than a, and agrees elsewhere: each one's own interval hides what the pair shows."""
    initial = [C] * 60 + [W] * 40
    a = [C] * 50 + [R] * 20 + [W] * 30
    b = [C] * 50 + [R] * 25 + [W] * 25
    assert paired(initial, a, b)["ths"].low > 0
    assert against(initial, a)["ths"].high > against(initial, b)["ths"].low


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(VERDICTS), st.sampled_from(VERDICTS)), min_size=1, max_size=40))
def test_identical_models_differ_by_nothing(pairs):
    initial, refined = (list(side) for side in zip(*pairs, strict=True))
    for name, found in paired(initial, refined, refined, resamples=50).items():
        if found.value is None:
            assert found.note, name
        else:
            assert (found.value, found.low, found.high) == (0, 0, 0), name


@settings(deadline=None)
@given(st.lists(st.sampled_from(VERDICTS), min_size=1, max_size=40))
def test_shares_lie_in_their_intervals_and_the_initial_model_beside_itself_scores_zero(verdicts):
    found = alone(verdicts, resamples=200)
    assert sum(found[v].value for v in VERDICTS) == pytest.approx(1)
    for verdict in VERDICTS:
        assert 0 <= found[verdict].low <= found[verdict].high <= 1
    scored = against(verdicts, verdicts, resamples=50)["ths"]
    assert scored.value is None or (scored.value, scored.low, scored.high) == (0, 0, 0)


def test_the_seed_decides_and_the_order_of_questions_does_not():
    initial, a, _ = world(50, 5)
    found = against(initial, a, seed=1)
    assert against(initial[::-1], a[::-1], seed=1) == found
    assert against(initial, a, seed=2) != found


def test_an_undefined_number_is_none_and_a_sentence():
    found = against([C, C, C], [C, R, C], resamples=20)
    assert (found["ths"].value, found["ths"].low, found["ths"].high) == (None, None, None)
    assert "P_w = 0" in found["ths"].note
    assert found["over_refusal"].value == pytest.approx(1 / 3)
    assert paired([C], [C], [R], resamples=5)["ths"].value is None


def test_resamples_in_which_a_metric_is_undefined_are_counted():
    found = against([W, C, C, C], [R, C, C, R], resamples=500)["ths"]
    assert found.value is not None
    assert "resamples, which the interval leaves out" in found.note
    lost = int(found.note.split(" in ")[1].split(" of ")[0])
    assert lost / 500 == pytest.approx(0.75**4, abs=0.06), "the one mistake is missed with probability (3/4)^4"
    assert interval(0.5, np.array([np.nan, np.nan]), 3, "x").low is None
