"""Influence by group means equals the N×N matrix of products that it never forms."""

import numpy as np
import pyarrow as pa
import pytest

from gradstore.errors import SelectionError
from gradstore.influence import group_means, influence, target_influence
from tests import reference
from tests import reference_selection as twin


def units(n: int, dim: int, seed: int = 0) -> np.ndarray:
    """n rows of near unit norm, as float16."""
    rows = np.random.default_rng(seed).normal(size=(n, dim)) + 0.3
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def stream_of(stores: dict[str, dict[str, np.ndarray]], rows: int = 4):
    """Open a fresh stream of blocks of at most ``rows`` rows, as the store does."""

    def stream(checkpoint: str):
        held = stores[checkpoint]
        ids = list(held)
        for start in range(0, len(ids), rows):
            part = ids[start : start + rows]
            block = np.stack([held[i] for i in part]).view(np.uint16)
            yield pa.record_batch({"sample_id": part}), block

    return stream


def named(vectors: np.ndarray) -> dict[str, np.ndarray]:
    return {f"s{i:02}": v for i, v in enumerate(vectors)}


VECTORS = units(11, 24)
GROUPS = {"unknown": ["s00", "s03", "s04", "s09"], "known": ["s01", "s02", "s10"]}
MEMBERS = {name: [int(i[1:]) for i in ids] for name, ids in GROUPS.items()}


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_equals_the_matrix_of_all_products(rows):
    frame, sizes = influence(stream_of({"c": named(VECTORS)}, rows), GROUPS, {"c": 1.0})
    assert sizes == {"unknown": 4, "known": 3}
    assert frame["sample_id"].to_list() == sorted(named(VECTORS))
    for name, members in MEMBERS.items():
        twin = reference.influence(VECTORS.tolist(), members)
        np.testing.assert_allclose(frame[name], twin, atol=1e-12, rtol=0)


def test_the_self_term_is_included():
    alone = {"a": VECTORS[0], "b": VECTORS[1]}
    frame, _ = influence(stream_of({"c": alone}), {"g": ["a"]}, {"c": 1.0})
    own = reference.inner(VECTORS[0].tolist(), VECTORS[0].tolist())
    assert frame["g"][0] == pytest.approx(own, abs=1e-12), "0 here would mean that j = i is left out of the mean"


def test_rows_outside_all_groups_get_scores_but_enter_no_mean():
    held = named(VECTORS)
    few, _ = influence(stream_of({"c": held}), GROUPS, {"c": 1.0})
    more, sizes = influence(stream_of({"c": held | {"x": units(1, 24, 9)[0]}}), GROUPS, {"c": 1.0})
    assert more.height == few.height + 1
    assert sizes == {"unknown": 4, "known": 3}
    assert more.filter(more["sample_id"] != "x").equals(few), "a row of no group moved a mean"


def test_permuting_rows_permutes_scores_and_nothing_else():
    held = named(VECTORS)
    backwards = dict(reversed(held.items()))
    frames = [influence(stream_of({"c": h}, 3), GROUPS, {"c": 1.0})[0] for h in (held, backwards)]
    assert frames[0]["sample_id"].equals(frames[1]["sample_id"])
    np.testing.assert_allclose(frames[0].drop("sample_id"), frames[1].drop("sample_id"), atol=1e-14)


def test_groups_do_not_depend_on_the_order_of_their_names_or_members():
    turned = {"known": GROUPS["known"][::-1], "unknown": GROUPS["unknown"][::-1]}
    stream = stream_of({"c": named(VECTORS)})
    frames = [influence(stream, g, {"c": 1.0})[0] for g in (GROUPS, turned)]
    assert frames[0].equals(frames[1].select(frames[0].columns))


def test_checkpoints_add_up_by_their_share_of_the_learning_rates():
    other = units(11, 24, seed=5)
    stream = stream_of({"c1": named(VECTORS), "c2": named(other)})
    frame, _ = influence(stream, GROUPS, {"c1": 3e-5, "c2": 1e-5})
    for name, members in MEMBERS.items():
        one, two = (np.array(reference.influence(v.tolist(), members)) for v in (VECTORS, other))
        np.testing.assert_allclose(frame[name], 0.75 * one + 0.25 * two, atol=1e-12)


def test_a_row_missing_at_one_checkpoint_gets_no_score():
    held = named(VECTORS)
    part = {i: v for i, v in held.items() if i not in ("s05", "s00")}
    frame, _ = influence(stream_of({"c1": held, "c2": part}), GROUPS, {"c1": 1.0, "c2": 1.0})
    assert set(held) - set(frame["sample_id"]) == {"s00", "s05"}, "half a score ranks below every whole one"


@pytest.mark.parametrize("members", [[], ["not stored"]])
def test_an_empty_group_is_an_error_that_names_its_size(members):
    with pytest.raises(SelectionError, match=r"no usable gradient \(sizes \[3, 0\]\).*extract gradients"):
        influence(stream_of({"c": named(VECTORS)}), {"known": GROUPS["known"], "unknown": members}, {"c": 1.0})


def test_an_empty_stream_is_an_error_too():
    with pytest.raises(SelectionError, match="no usable gradient"):
        group_means(iter([]), {"a": 0}, 1)


def test_a_zero_row_has_no_influence_and_identical_rows_have_all():
    same = np.tile(np.array([0.5, 0.5, 0.5, 0.5], np.float16), (3, 1))
    held = named(np.vstack([same, np.zeros((1, 4), np.float16)]))
    frame, _ = influence(stream_of({"c": held}), {"g": ["s00", "s01", "s02"]}, {"c": 7.0})
    assert frame["g"].to_list() == [1.0, 1.0, 1.0, 0.0]


# -- LESS's target ---------------------------------------------------------------------------------------------

RATES = {"c1": 3e-5, "c2": 1e-5}
SIDES = {"answer": ["s01", "s02", "s10"], "refusal": ["s00", "s03", "s04", "s09"]}
TARGETS = {"answer": {"s01": "law", "s02": "art"}, "refusal": {"s03": "law", "s09": "war", "s00": "law"}}


def held_rows(seed: int) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """response → checkpoint → id → row."""
    return {
        response: {c: named(units(11, 24, seed + 10 * k + n)) for n, c in enumerate(RATES)}
        for k, response in enumerate(SIDES)
    }


def opened(held):
    return lambda checkpoint, response: stream_of(held[response])(checkpoint)


def slow_scores(features, gradients, sides=SIDES, targets=TARGETS, rates=RATES):
    train = {c: {i: features[r][c][i].tolist() for r, ids in sides.items() for i in ids} for c in rates}
    subtasks = sorted({t for members in targets.values() for t in members.values()})
    target = {
        c: {
            t: [gradients[r][c][i].tolist() for r, m in targets.items() for i, s in m.items() if s == t]
            for t in subtasks
        }
        for c in rates
    }
    return twin.less_scores(train, target, rates)


def test_a_target_is_the_mean_within_a_subtask_and_the_maximum_over_them():
    features, gradients = held_rows(0), held_rows(100)
    frame = target_influence(opened(features), opened(gradients), SIDES, TARGETS, RATES)
    slow = slow_scores(features, gradients)
    assert frame["sample_id"].to_list() == sorted(slow)
    np.testing.assert_allclose(frame["target"], [slow[i] for i in sorted(slow)], atol=1e-12)


def test_a_target_of_one_subtask_is_the_influence_on_a_group():
    features = held_rows(3)
    members = {"refusal": dict.fromkeys(SIDES["refusal"], "")}
    frame = target_influence(opened(features), opened(features), SIDES, members, {"c1": 1.0})
    plain, _ = influence(stream_of(features["refusal"]), {"unknown": SIDES["refusal"]}, {"c1": 1.0})
    expected = dict(plain.iter_rows())
    for sample, score in frame.iter_rows():
        if sample in SIDES["refusal"]:
            assert score == pytest.approx(expected[sample], abs=1e-14)


def test_the_scale_of_the_rates_does_not_matter_but_their_ratio_does():
    features, gradients = held_rows(5), held_rows(6)

    def scores(**rates):
        return target_influence(opened(features), opened(gradients), SIDES, TARGETS, rates)["target"].to_numpy()

    np.testing.assert_allclose(scores(c1=3.0, c2=1.0), scores(c1=3e-7, c2=1e-7), rtol=1e-9)
    assert not np.allclose(scores(c1=1.0, c2=3.0), scores(c1=3.0, c2=1.0))


def test_a_maximum_is_over_sums_of_checkpoints_not_a_sum_of_maxima():
    one, other = np.eye(2, 4, dtype=np.float16)
    features = {"refusal": {"c1": {"x": one, "a": one, "b": other}, "c2": {"x": other, "a": one, "b": other}}}
    members = {"refusal": {"a": "first", "b": "second"}}
    frame = target_influence(opened(features), opened(features), {"refusal": ["x"]}, members, {"c1": 1.0, "c2": 1.0})
    assert frame.rows() == [("x", 0.5)], "1 would be the mean of each checkpoint's maximum"


def test_a_sample_without_a_row_at_one_checkpoint_has_no_target_score():
    features, gradients = held_rows(0), held_rows(100)
    del features["refusal"]["c2"]["s04"]
    frame = target_influence(opened(features), opened(gradients), SIDES, TARGETS, RATES)
    assert set(frame["sample_id"]) == {i for ids in SIDES.values() for i in ids} - {"s04"}
    both = {"answer": ["s01"], "refusal": ["s03"]}
    del features["answer"]["c1"]["s01"]
    few = target_influence(opened(features), opened(gradients), both, TARGETS, RATES)
    assert few["sample_id"].to_list() == ["s03"]


def test_targets_without_gradients_are_an_error():
    features, gradients = held_rows(0), held_rows(100)
    for nobody in ({}, {"answer": {}, "refusal": {}}):
        with pytest.raises(SelectionError, match="^the target has no usable gradient: loosen its condition"):
            target_influence(opened(features), opened(gradients), SIDES, nobody, RATES)
    gone = {"answer": {"not stored": "law"}, "refusal": {"s03": "art"}}
    with pytest.raises(SelectionError, match="^a subtask of the target has no usable gradient: loosen"):
        target_influence(opened(features), opened(gradients), SIDES, gone, RATES)


def test_more_than_is_kept_is_streamed_twice_for_the_same_scores(monkeypatch):
    opened = []
    plain = stream_of({"c": named(VECTORS)})

    def stream(checkpoint):
        opened.append(checkpoint)
        return plain(checkpoint)

    kept, _ = influence(stream, GROUPS, {"c": 1.0})
    assert len(opened) == 1
    monkeypatch.setattr("gradstore.influence.KEPT_BYTES", VECTORS.nbytes - 1)
    streamed, _ = influence(stream, GROUPS, {"c": 1.0})
    assert len(opened) == 3
    assert streamed.equals(kept)
