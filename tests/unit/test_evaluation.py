"""Metrics of a model that may refuse."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradstore.errors import GradstoreError
from gradstore.evaluation import (
    AGAINST,
    ALONE,
    UNDEFINED,
    VERDICTS,
    Shares,
    joint_counts,
    measure,
    refusal_rates,
    shares,
    ths,
    ths_or_none,
    transitions,
)
from tests import reference, reference_evaluation

C, W, R, U = "correct", "wrong", "refused", "unparsed"


def model(correct: float, wrong: float) -> Shares:
    return Shares(correct, wrong, 1 - correct - wrong, 0.0, 100)


@pytest.mark.parametrize(
    ("refined", "expected"), [((0.3, 0.2), 0.1), ((0.3, 0.15), 0.15), ((0.5, 0.0), 0.5), ((1.0, 0.0), 1.0)]
)
def test_the_four_models_of_craft_are_ranked_as_in_its_table(refined, expected):
    assert ths(model(*refined), model(0.5, 0.5)) == pytest.approx(expected), "other metrics mis-rank one of the four"


def test_the_order_of_those_four_is_strict():
    scores = [ths(model(*m), model(0.5, 0.5)) for m in ((0.3, 0.2), (0.3, 0.15), (0.5, 0.0), (1.0, 0.0))]
    assert scores == sorted(set(scores)), "M1 < M2 < M3 < M4 (CRaFT Table 1)"


@pytest.mark.parametrize("initial", [(0.668, 0.331), (0.1, 0.9), (0.0, 0.4), (0.3, 0.001)])
@pytest.mark.parametrize("refined", [(0.533, 0.096), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_ths_equals_the_ratio_of_cross_products(initial, refined):
    assert ths(model(*refined), model(*initial)) == pytest.approx(reference.ths(refined, initial), abs=1e-12)


def test_craft_llama3_mmlu_matches_the_published_cell():
    assert ths(model(0.533, 0.096), model(0.668, 0.331)) == pytest.approx(0.340, abs=0.002)


def test_the_initial_model_scores_zero_and_no_model_more_than_one():
    assert ths(model(0.4, 0.35), model(0.4, 0.35)) == pytest.approx(0)
    assert ths(model(1, 0), model(0.01, 0.99)) == 1


def test_ths_is_undefined_where_the_initial_model_makes_no_mistake():
    with pytest.raises(GradstoreError, match=r"THS is undefined: the initial model makes no mistake .*P_w = 0"):
        ths(model(0.5, 0.1), model(1, 0))


def test_shares_count_all_items_and_keep_unparsed_apart():
    found = shares([C, C, W, R, U, U, U, U])
    assert found == Shares(0.25, 0.125, 0.125, 0.5, 8)
    assert sum(list(found.as_dict().values())[:4]) == 1


def test_an_empty_evaluation_is_an_error():
    with pytest.raises(GradstoreError, match="no verdicts to count"):
        shares([])


def test_refusal_rates_are_shares_of_what_was_correct_and_of_what_was_wrong():
    initial = [C, C, C, C, W, W, R, U]
    refined = [R, C, W, U, R, R, R, R]
    assert refusal_rates(initial, refined) == (0.25, 1.0)


def test_refusal_rates_are_none_where_there_is_nothing_to_divide_by():
    assert refusal_rates([W, R], [R, R]) == (None, 1.0)
    assert refusal_rates([C], [C]) == (0.0, None)
    assert refusal_rates([], []) == (None, None)


def test_lists_of_other_length_are_refused():
    with pytest.raises(ValueError, match="zip"):
        refusal_rates([C], [C, C])


def test_the_undefined_ths_is_said_and_never_a_nan():
    value, why = ths_or_none(model(0.5, 0.1), model(1, 0))
    assert value is None
    assert "makes no mistake" in why
    assert ths_or_none(model(0.5, 0.0), model(0.5, 0.5)) == (0.5, None)


def test_every_metric_equals_its_twin_counted_question_by_question():
    generator = random.Random(0)
    for n in (1, 2, 5, 40, 300):
        pairs = [(generator.choice(VERDICTS), generator.choice(VERDICTS)) for _ in range(n)]
        initial, refined = (list(side) for side in zip(*pairs, strict=True))
        expected = reference_evaluation.numbers(pairs)
        assert expected.keys() == ALONE.keys() | AGAINST.keys()
        for name, value in expected.items():
            found, why = measure(name, joint_counts(*([refined] if name in ALONE else [initial, refined])))
            assert found == (None if value is None else pytest.approx(value, abs=1e-12)), name
            assert (why is None) == (found is not None)
            if found is None:
                assert why == UNDEFINED[name]


def test_answered_accuracy_counts_what_could_not_be_read_as_an_answer():
    assert measure("answered_accuracy", joint_counts([C, C, W, U, R, R])) == (0.5, None)
    assert measure("answered_accuracy", joint_counts([R, R]))[0] is None


def test_refusal_precision_and_recall():
    """Of four refused two were wrong; of three that were wrong two are refused."""
    initial = [W, W, W, C, R, C]
    refined = [R, R, C, R, R, C]
    assert measure("refusal_precision", joint_counts(initial, refined))[0] == 0.5
    assert measure("refusal_recall", joint_counts(initial, refined))[0] == pytest.approx(2 / 3)


def test_transitions_hold_all_sixteen_cells_and_every_question_once():
    table = transitions([C, C, W, R, U], [C, R, R, C, W])
    assert [list(table), list(table[C])] == [list(VERDICTS)] * 2
    assert table[C] == {C: 1, W: 0, R: 1, U: 0}
    assert (table[W][R], table[R][C], table[U][W]) == (1, 1, 1)
    assert sum(n for row in table.values() for n in row.values()) == 5


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (([C], [C, C]), r"lists of \[1, 2\] verdicts came.*join them by id"),
        (([],), "no verdicts to count"),
        (([C, "right"],), "'right' is no verdict: expected one of correct, wrong, refused, unparsed"),
    ],
)
def test_lists_that_cannot_be_counted_are_refused(lists, message):
    with pytest.raises(GradstoreError, match=message):
        joint_counts(*lists)


@given(st.lists(st.sampled_from(VERDICTS), min_size=1, max_size=50))
def test_shares_sum_to_one_and_the_initial_model_scores_zero(verdicts):
    found = shares(verdicts)
    assert found.correct + found.wrong + found.refused + found.unparsed == pytest.approx(1)
    value, _ = ths_or_none(found, found)
    assert value is None or value == pytest.approx(0, abs=1e-12)
    value, _ = measure("ths", joint_counts(verdicts, verdicts))
    assert value is None or value == pytest.approx(0, abs=1e-12)
