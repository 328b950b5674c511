"""``reference`` does what the released code does: as methods.md restates it, bug for bug."""

from collections import Counter
from functools import cache

import numpy as np
import pytest

from gradstore.methods import REFERENCE
from gradstore.selection import Settings, select
from gradstore.selection.released import normalised_one_after_another, shifted_flow
from tests import reference
from tests import reference_selection as twin
from tests.reference_selection import in_hash_order
from tests.unit.test_selection import Selection, run, sides, usable

cached = cache(twin.world)
KINDS = ["smooth", "ties", "copies", "equal"]


def released(kind: str, **settings) -> Selection:
    return run(cached(kind), reference=True, **settings)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("known", "unknown"), [(8, 8), (5, 11), (1, 1), (100, 7)])
def test_grait_takes_the_worst_that_its_greedy_loop_left(kind, known, unknown):
    given = cached(kind)
    parts = twin.by_correctness(in_hash_order(usable(given), 0), 0.5, "drop")
    refusal, answer = given.floats("refusal"), given.floats("answer")
    expected = twin.grait_released(parts["known"], parts["unknown"], known, unknown, refusal, answer)
    found = released(kind, known=known, unknown=unknown)
    assert sides(found) == expected
    assert found.rows["weight"].drop_nulls().unique().to_list() == [1.0]


def test_grait_leaves_out_what_its_greedy_loop_picked():
    """The loop picks as many as are asked for and forgets them: asking for nearly all leaves nearly none."""
    number = len(twin.by_correctness(usable(cached("smooth")), 0.5, "drop")["unknown"])
    found = released("smooth", known=5, unknown=number - 2)
    assert len(sides(found)[1]) == 2
    assert found.warnings == [f"{number - 2} unknown samples were asked for, 2 are usable: all are taken"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("known", "unknown"), [(8, 8), (3, 5), (1, 1), (100, 100)])
@pytest.mark.parametrize("method", ["corcer-rait", "craft-no-flow", "craft"])
def test_everything_that_ties_with_the_last_place_comes_too(method, kind, known, unknown):
    given = cached(kind)
    rows = sorted(in_hash_order(usable(given), 0), key=lambda r: r["ordinal"])
    parts = twin.by_correctness(rows, 0.5, "known")
    if method == "craft":
        parts["unknown"] = list(filter(twin.keeps_flow, parts["unknown"]))
    certainty = {side: {r["sample_id"]: r["certainty"] for r in part} for side, part in parts.items()}
    found = sides(released(kind, method=method, known=known, unknown=unknown))
    assert found[0] == twin.keep_all(certainty["known"], known, largest=True)
    assert found[1] == twin.keep_all(certainty["unknown"], unknown, largest=False)
    if kind == "equal":
        assert [len(ids) for ids in found] == [30, 30], "all tie, so all come"


def test_craft_keeps_what_did_not_change_in_multiple_choice_alone():
    flow, choice = [-0.1, 0.0, 0.1, None] * 2, [True] * 4 + [False] * 4
    given = cached("smooth", 9).with_columns(
        flow=[*flow, None], choice=[*choice, True], correctness=[0] * 8 + [1], certainty=[0.5] * 9
    )
    found = run(given, method="craft", reference=True, known=1, unknown=1)
    assert set(sides(found)[1]) == {"id000", "id001", "id004"}
    reasons = found.rows["reason"].to_list()
    assert reasons[2:4] == ["knowledge-did-not-fall", "no-flow"]
    assert reasons[5:8] == ["knowledge-did-not-fall"] * 2 + ["no-flow"]
    paper = run(given, method="craft", known=1, unknown=2)
    assert set(sides(paper)[1]) == {"id000", "id004"}


def test_a_frame_that_says_nothing_of_choices_is_one_of_open_questions():
    given = cached("smooth", 3).with_columns(flow=[-0.1, 0.0, None], correctness=[0, 0, 1])
    frame = given.frame.drop("choice")
    found = select(frame, Settings("craft", 1, 1, reference=True), given.vectors)
    assert sides(found) == (["id002"], ["id000"])


@pytest.mark.parametrize("count", [1, 5, 30, 400])
@pytest.mark.parametrize("side", ["known", "unknown"])
def test_cor_rait_draws_with_replacement(side, count):
    """As many draws as asked for; the weight is the number of draws; drawn by the seed, in order of the first draw."""
    counts = {"known": 4, "unknown": 4} | {side: count}
    found = released("ties", method="cor-rait", **counts)
    mine = found.rows.filter(side=side).sort("rank")
    assert mine["weight"].sum() == pytest.approx(count)
    assert mine["weight"].to_list() == pytest.approx(mine["score"].to_list())
    assert all(w == pytest.approx(round(w)) and w >= 1 for w in mine["weight"])
    again = released("ties", method="cor-rait", **counts)
    assert found.rows.equals(again.rows)
    longer = released("ties", method="cor-rait", **(counts | {side: count + 1}))
    drawn = sides(found)[side == "unknown"]
    assert sides(longer)[side == "unknown"][: len(drawn)] == drawn, "one more draw redrew those before"
    if count == 400:
        everybody = twin.by_correctness(usable(cached("ties")), 0.5, "known")[side]
        assert mine.height == len(everybody), "somebody was never drawn"
        expected = 400 / mine.height
        assert all(abs(w - expected) < 5 * expected**0.5 for w in mine["weight"]), "far from a fair draw"
    if count == 30:
        assert mine["weight"].max() > 1, "thirty draws without one twice"


def test_cor_rait_draws_others_with_another_seed_and_fairly_over_seeds():
    drawn = Counter()
    for seed in range(60):
        known, _ = sides(run(cached("equal", 20), method="cor-rait", reference=True, known=1, unknown=1, seed=seed))
        drawn[known[0]] += 1
    assert len(drawn) == 10, "somebody was never drawn"
    assert max(drawn.values()) < 18


@pytest.mark.parametrize("kind", KINDS)
def test_r_tuning_u_keeps_the_last_item_of_the_file_alone(kind):
    given = cached(kind)
    unsure = twin.by_entropy(in_hash_order(usable(given), 0))["unknown"]
    found = released(kind, method="r-tuning-u", known=6, unknown=3)
    known, unknown = sides(found)
    assert unknown == [max(unsure, key=lambda r: r["ordinal"])["sample_id"]]
    assert known == sides(run(given, method="r-tuning-u", known=6, unknown=3))[0]
    assert found.warnings == ["3 unknown samples were asked for, 1 are usable: all are taken"]


@pytest.mark.parametrize("n", [1, 9, 10, 11, 35])
def test_open_questions_are_given_the_rehearsal_of_question_a_tenth_of_their_number(n):
    rng = np.random.default_rng(n)
    initial, rehearsed = rng.random(n), rng.random(n)
    found = shifted_flow(initial, rehearsed)
    assert found.tolist() == twin.misaligned_flow(initial.tolist(), rehearsed.tolist())
    assert found[0] == rehearsed[0] - initial[0]
    if n > 10:
        assert found[10] == rehearsed[1] - initial[10]


@pytest.mark.parametrize("raw", [[0.05, 0.1, 0.1, 0.3], [0.25] * 4, [1e-6, 0.5], [0.9], [0.2, 0.3, 0.5]])
def test_options_are_normalised_one_after_another(raw):
    found = normalised_one_after_another(np.array(raw))
    np.testing.assert_allclose(found, reference.normalised_one_after_another(raw), rtol=1e-12)
    assert raw == list(raw), "the caller's numbers were overwritten"
    if raw == [0.05, 0.1, 0.1, 0.3]:
        np.testing.assert_allclose(found, [0.091, 0.169, 0.151, 0.422], atol=5e-4)


@pytest.mark.parametrize("method", REFERENCE)
def test_no_released_selection_of_either_side_holds_a_sample_twice(method):
    for kind in KINDS:
        for ids in sides(released(kind, method=method, known=12, unknown=6)):
            assert len(ids) == len(set(ids)) > 0
