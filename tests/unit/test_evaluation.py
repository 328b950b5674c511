"""Metrics of a model that may refuse."""

import pytest

from gradstore.errors import GradstoreError
from gradstore.evaluation import Shares, refusal_rates, shares, ths
from tests import reference

C, W, R, U = "correct", "wrong", "refused", "unparsed"


def model(correct: float, wrong: float) -> Shares:
    return Shares(correct, wrong, 1 - correct - wrong, 0.0, 100)


@pytest.mark.parametrize(
    ("refined", "expected"), [((0.3, 0.2), 0.1), ((0.3, 0.15), 0.15), ((0.5, 0.0), 0.5), ((1.0, 0.0), 1.0)]
)
def test_the_four_models_of_craft_are_ranked_as_in_its_table(refined, expected):
    assert ths(model(*refined), model(0.5, 0.5)) == pytest.approx(expected), "other metrics mis-rank one of the four"


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
