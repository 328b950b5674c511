"""Subject by subject, micro and macro, with the subjects that have no THS said."""

import random

import pytest

from gradstore.errors import GradstoreError
from gradstore.evaluation import AGAINST, ALONE, VERDICTS, against, alone, by_subject
from tests import reference_evaluation

C, W, R, U = VERDICTS


def world(seed: int = 0, n: int = 120):
    generator = random.Random(seed)
    initial = generator.choices(VERDICTS, [5, 4, 1, 1], k=n)
    refined = generator.choices(VERDICTS, [5, 2, 3, 1], k=n)
    return initial, refined, generator.choices(["algebra", "law", "virology"], [6, 3, 1], k=n)


def test_each_subject_is_an_evaluation_of_its_own():
    initial, refined, subjects = world()
    found = by_subject(refined, subjects, initial, resamples=20)
    assert list(found.each) == ["algebra", "law", "virology"]
    for subject, numbers in found.each.items():
        pairs = [p for *p, s in zip(initial, refined, subjects, strict=True) if s == subject]
        expected = reference_evaluation.numbers(pairs)
        for name, number in numbers.items():
            assert number.value == pytest.approx(expected[name]), (subject, name)
            assert number.n == len(pairs)


@pytest.mark.parametrize("metric", [*ALONE, *AGAINST])
def test_macro_is_the_unweighted_mean_and_micro_that_of_all_questions(metric):
    initial, refined, subjects = world()
    pairs = list(zip(initial, refined, strict=True))
    found = by_subject(refined, subjects, None if metric in ALONE else initial, resamples=200)
    assert found.macro[metric].value == pytest.approx(reference_evaluation.macro(pairs, subjects, metric))
    assert found.micro[metric].value == pytest.approx(reference_evaluation.numbers(pairs)[metric])
    assert found.macro[metric].low <= found.macro[metric].value <= found.macro[metric].high


def test_craft_takes_the_means_first():
    initial, refined, subjects = world()
    found = by_subject(refined, subjects, initial, resamples=20).macro
    expected = reference_evaluation.ths_of_macro_shares(list(zip(initial, refined, strict=True)), subjects)
    assert found["ths_of_macro_shares"].value == pytest.approx(expected)
    assert found["ths_of_macro_shares"].value != pytest.approx(found["ths"].value), "the two orders differ"


def test_subjects_without_a_ths_are_counted_and_named():
    initial = [C, C, C, W, C, W]
    refined = [C, R, C, R, C, W]
    subjects = ["easy", "easy", "hard", "hard", "fair", "fair"]
    found = by_subject(refined, subjects, initial, resamples=50)
    assert found.each["easy"]["ths"].value is None
    assert "P_w = 0" in found.each["easy"]["ths"].note
    hard, fair = found.each["hard"]["ths"].value, found.each["fair"]["ths"].value
    assert found.macro["ths"].value == pytest.approx((hard + fair) / 2)
    assert "undefined in 1 of 3 subjects (easy), which the mean leaves out" in found.macro["ths"].note
    assert found.macro["correct" if "correct" in found.macro else "over_refusal"].note is None


def test_where_no_subject_has_a_ths_neither_has_the_mean():
    found = by_subject([C, R], ["a", "b"], [C, C], resamples=10).macro
    assert found["ths"].value is None
    assert "in no subject is it defined" in found["ths"].note
    assert "undefined in 2 of 2 subjects (a, b)" in found["ths"].note
    assert found["ths_of_macro_shares"].value is None
    assert "P_w = 0" in found["ths_of_macro_shares"].note


def test_one_subject_is_micro_and_macro_alike():
    initial, refined, _ = world()
    found = by_subject(refined, ["all"] * len(refined), initial, resamples=30)
    for name in AGAINST:
        assert found.macro[name].value == pytest.approx(found.micro[name].value)
    assert found.micro == against(initial, refined, resamples=30)
    assert by_subject(refined, ["all"] * len(refined), resamples=30).micro == alone(refined, resamples=30)


def test_lists_of_other_length_and_empty_ones_are_refused():
    with pytest.raises(GradstoreError, match="1 subjects came for 2 verdicts"):
        by_subject([C, W], ["a"])
    with pytest.raises(GradstoreError, match="lists of"):
        by_subject([C, W], ["a", "a"], [C])
    with pytest.raises(GradstoreError, match="no verdicts to count"):
        by_subject([], [])
