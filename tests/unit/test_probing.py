"""Correctness and certainty, against the formulas and at their ends."""

import numpy as np
import pytest

from gradstore.probing import from_choices, from_samples, mean_cosine
from tests import reference

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("k", [2, 3, 4, 5])
@pytest.mark.parametrize("mass", [1.0, 0.3])
def test_choices_equal_the_twin_whatever_the_mass_on_the_letters(k, mass):
    p = reference.normalised(RNG.random(k).tolist())
    for gold in range(k):
        found = from_choices([x * mass for x in p], gold)
        assert found.correctness == pytest.approx(p[gold], abs=1e-12)
        assert found.entropy == pytest.approx(reference.entropy(p), abs=1e-12)
        assert found.certainty == pytest.approx(reference.certainty(p, k), abs=1e-12)
        assert found.verdicts is None


def test_no_letter_is_favoured_by_its_position():
    raw = (0.05, 0.10, 0.10, 0.30)
    assert from_choices(raw, 3).correctness == pytest.approx(0.545, abs=5e-4), ".422 is the released code's bias"
    assert reference.normalised_one_after_another(raw)[3] == pytest.approx(0.422, abs=5e-4)
    for order in ([3, 0, 1, 2], [0, 3, 1, 2], [2, 1, 3, 0]):
        moved = from_choices([raw[i] for i in order], order.index(3))
        assert moved.correctness == pytest.approx(from_choices(raw, 3).correctness, abs=1e-15)


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_certainty_is_zero_for_equal_and_one_for_one_hot(k):
    equal, sure = from_choices([1 / k] * k, 0), from_choices([1.0] + [0.0] * (k - 1), 0)
    assert equal.certainty == pytest.approx(0, abs=1e-12)
    assert equal.entropy == pytest.approx(np.log(k))
    assert (sure.certainty, sure.entropy, sure.correctness) == (1.0, 0.0, 1.0)


def test_samples_count_answers_after_normalising_them():
    found = from_samples(["Paris", "paris.", "The Paris!", "London"], ["Paris"])
    assert found.verdicts == ["correct"] * 3 + ["wrong"]
    assert found.correctness == 0.75
    assert found.entropy == pytest.approx(reference.entropy([0.75, 0.25]))
    assert found.certainty == pytest.approx(reference.certainty([0.75, 0.25], 4))


def test_samples_that_all_differ_are_uncertain_and_those_that_agree_certain():
    assert from_samples(list("bcde"), ["x"]).certainty == pytest.approx(0, abs=1e-12)
    assert from_samples(["b"] * 4, ["x"]).certainty == 1


def test_a_refused_sample_is_not_correct_and_all_refusals_are_one_answer():
    found = from_samples(["I don't know", "I’m not sure", "No idea.", "I do not know."], ["Paris"], None, ["No idea."])
    assert found.verdicts == ["refused"] * 4
    assert (found.correctness, found.certainty, found.entropy) == (0.0, 1.0, 0.0)


def test_the_answer_refused_is_no_refusal():
    found = from_samples(["Refused", "I don't know"], ["refused"])
    assert found.verdicts == ["correct", "refused"]
    assert found.certainty == pytest.approx(0), "an answer that reads 'refused' was counted with the refusals"


def test_one_sample_is_certain():
    assert from_samples(["Paris"], ["Paris"]) == from_samples(["paris"], ["Paris"])
    assert from_samples(["Paris"], ["Paris"]).certainty == 1


def test_empty_samples_are_wrong_and_agree():
    found = from_samples(["", " ", "..."], ["Paris"])
    assert (found.correctness, found.certainty) == (0.0, 1.0)


def test_another_certainty_replaces_agreement_but_not_entropy():
    texts = ["a b", "c d"]
    found = from_samples(texts, ["x"], lambda given: 0.25 if list(given) == texts else -1)
    assert found.certainty == 0.25
    assert found.entropy == pytest.approx(np.log(2))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mean_cosine_equals_the_double_loop(dtype):
    rows = RNG.normal(size=(9, 12)) + 0.5
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)
    assert mean_cosine(rows) == pytest.approx(reference.mean_cosine(rows.tolist()), abs=1e-7)


def test_mean_cosine_at_its_ends():
    one = np.array([[1.0, 0.0]])
    assert mean_cosine(one) == 1
    assert mean_cosine(np.repeat(one, 10, axis=0)) == 1
    assert mean_cosine(np.eye(3)) == 0
    assert mean_cosine(np.vstack([one, -one])) == 0, "opposite answers are no less certain than unrelated ones"
