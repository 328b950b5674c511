"""Risk against coverage: ties, refusals, and resamples, beside enumeration of every order."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradstore.errors import GradstoreError
from gradstore.evaluation import Ranked, aurc, aurc_interval, paired_aurc, risk_coverage
from gradstore.evaluation.risk import weighted_aurc
from tests import reference_evaluation

QUESTION = st.tuples(st.sampled_from([0.1, 0.5, 0.5, 0.9]), st.booleans(), st.booleans())


def columns(questions):
    confidence, correct, refused = (np.array(side) for side in zip(*questions, strict=True))
    return confidence.astype(float), correct & ~refused, refused


@given(st.lists(QUESTION, min_size=1, max_size=6))
def test_ties_are_what_a_random_order_gives_on_average(questions):
    confidence, correct, refused = columns(questions)
    expected = reference_evaluation.aurc(confidence.tolist(), correct.tolist(), refused.tolist())
    assert aurc(confidence, correct, refused) == pytest.approx(expected, abs=1e-12)


@given(st.lists(QUESTION, min_size=1, max_size=40))
def test_the_area_is_the_mean_of_the_curve_and_ends_at_the_share_that_is_not_correct(questions):
    confidence, correct, refused = columns(questions)
    coverage, risk = risk_coverage(confidence, correct, refused)
    assert risk.mean() == pytest.approx(aurc(confidence, correct, refused), abs=1e-12)
    assert coverage.tolist() == pytest.approx([(k + 1) / len(correct) for k in range(len(correct))])
    assert risk[-1] == pytest.approx(1 - correct.mean())
    assert ((risk >= -1e-12) & (risk <= 1 + 1e-12)).all()


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_no_ranking_is_better_than_the_perfect_one_nor_worse_than_its_reverse(correct, generator):
    right = np.array(correct)
    confidence = np.array([generator.random() for _ in correct])
    best, worst = aurc(right.astype(float), right), aurc(-right.astype(float), right)
    assert best - 1e-12 <= aurc(confidence, right) <= worst + 1e-12


def test_the_order_of_rows_and_the_scale_of_confidence_change_nothing():
    generator = np.random.default_rng(0)
    confidence, correct = generator.integers(0, 5, 60) / 10, generator.random(60) < 0.6
    order = generator.permutation(60)
    found = aurc(confidence, correct)
    assert aurc(confidence[order], correct[order]) == pytest.approx(found, abs=1e-12)
    assert aurc(np.exp(confidence), correct) == pytest.approx(found, abs=1e-12)


def test_a_refused_question_comes_last_whatever_its_confidence():
    answers = np.array([True, False, False])
    refused = np.array([False, False, True])
    assert aurc(np.array([0.9, 0.5, 1.0]), answers, refused) == pytest.approx((0 + 1 / 2 + 2 / 3) / 3)
    assert aurc(np.array([0.9, 0.5, np.nan]), answers, refused) == pytest.approx((0 + 1 / 2 + 2 / 3) / 3)


def test_known_areas():
    assert aurc(np.array([3.0, 2, 1]), np.array([True, True, True])) == 0
    assert aurc(np.array([3.0, 2, 1]), np.array([False, False, False])) == 1
    assert aurc(np.zeros(4), np.array([True, False, True, False])) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        ([], [], "no risk without questions"),
        ([0.5], [True, False], "1 confidences, 2 verdicts and 1 refusals came"),
        ([0.5, np.nan], [True, False], "1 answers have no confidence"),
    ],
)
def test_what_cannot_be_ranked_is_refused(confidence, correct, message):
    with pytest.raises(GradstoreError, match=message):
        risk_coverage(np.array(confidence), np.array(correct, dtype=bool))


def test_weights_are_copies_of_questions():
    generator = np.random.default_rng(1)
    confidence, correct = generator.integers(0, 4, 12) / 4, generator.random(12) < 0.5
    refused = generator.random(12) < 0.3
    weights = generator.multinomial(12, np.full(12, 1 / 12), size=20)
    found = weighted_aurc(weights, confidence, correct, refused)
    for row, value in zip(weights, found, strict=True):
        copies = np.repeat(np.arange(12), row)
        assert value == pytest.approx(aurc(confidence[copies], correct[copies], refused[copies]), abs=1e-12)


def ranked(seed: int, n: int = 25) -> Ranked:
    generator = np.random.default_rng(seed)
    correct = generator.random(n) < 0.6
    return Ranked(np.round(generator.random(n) * 0.5 + 0.4 * correct, 1), correct, np.zeros(n, dtype=bool))


def test_the_interval_is_that_of_questions_drawn_one_by_one():
    model = ranked(2)
    found = aurc_interval(model, resamples=2000)
    questions = list(zip(model.confidence, model.correct, strict=True))

    def area(drawn):
        drawn = sorted(drawn, key=lambda q: -q[0])  # blocks of equals, as in aurc
        return aurc(*(np.array(side) for side in zip(*drawn, strict=True)))

    low, high = reference_evaluation.bootstrap(questions, area, 1000, seed=5)
    assert found.value == pytest.approx(area(questions))
    assert (found.low, found.high) == (pytest.approx(low, abs=0.03), pytest.approx(high, abs=0.03))
    assert found.low < found.value < found.high


def test_a_model_beside_itself_differs_by_nothing_and_the_seed_decides_the_rest():
    a, b = ranked(3), ranked(4)
    same = paired_aurc(a, a, resamples=200)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert paired_aurc(a, b, resamples=50, seed=1) == paired_aurc(a, b, resamples=50, seed=1)
    assert paired_aurc(a, b, resamples=50, seed=1) != paired_aurc(a, b, resamples=50, seed=2)
    there, back = paired_aurc(a, b, resamples=50), paired_aurc(b, a, resamples=50)
    assert (there.low, there.high) == (pytest.approx(-back.high), pytest.approx(-back.low))


def test_pieces_that_fit_in_memory_are_the_same_draws(monkeypatch):
    from gradstore.evaluation import intervals

    whole = aurc_interval(ranked(5), resamples=40)
    monkeypatch.setattr(intervals, "_CELLS_AT_ONCE", 60)
    assert aurc_interval(ranked(5), resamples=40) == whole


def test_the_twin_sees_a_wrong_treatment_of_ties():
    """Errors first and errors last are not their average: the test above would notice."""
    random.seed(0)
    assert reference_evaluation.aurc([0.5, 0.5], [True, False], [False, False]) == pytest.approx(0.5)
    assert reference_evaluation.aurc([0.6, 0.5], [True, False], [False, False]) == pytest.approx(0.25)
