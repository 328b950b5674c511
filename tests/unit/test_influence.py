"""Influence by group means equals the N×N matrix of products that it never forms."""

import numpy as np
import pyarrow as pa
import pytest

from gradstore.errors import SelectionError
from gradstore.influence import group_means, influence
from tests import reference


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
