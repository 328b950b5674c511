"""The kernels over float16 bits against plain loops, on ordinary and on hostile input, compiled and interpreted."""

import os
import subprocess
import sys

import numpy as np
import pytest

from gradstore.errors import SchemaError
from gradstore.kernels import half
from gradstore.kernels.cosine import cosines
from gradstore.kernels.greedy import gains, herding_step
from gradstore.kernels.half import add_groups, dot
from gradstore.kernels.neighbours import neighbours
from gradstore.kernels.topk import TopK
from gradstore.kernels.widening import widen
from tests import reference

RNG = np.random.default_rng(0)
INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT") == "1"
compiled = pytest.mark.skipif(INTERPRETED, reason="about threads, which only compiled code has")
if INTERPRETED:  # ∞ − ∞ and overflow are meant; numpy's scalars, unlike compiled code, remark on them
    pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def bits(values) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(np.float16).view(np.uint16)


INPUTS = {
    "random": bits(RNG.normal(size=(17, 33))),
    "no rows": np.zeros((0, 5), np.uint16),
    "no columns": np.zeros((3, 0), np.uint16),
    "one row": bits([[0.5, -0.25, 3.0]]),
    "one column": bits([[1.0], [2.0], [-3.0]]),
    "a row more than four": bits(RNG.normal(size=(5, 8))),
    "longer than a tile": bits(RNG.normal(size=(3, half.TILE + 5))),
    "constant": bits(np.full((4, 9), 0.1)),
    "zero": bits([[0.0, -0.0], [-0.0, 0.0]]),
    "NaN": bits([[1.0, np.nan], [2.0, 3.0]]),
    "infinite": bits([[np.inf, 1.0], [-np.inf, 2.0], [1e5, 3.0]]),
    "subnormal": bits(np.full((3, 4), 2.0**-24)),
    "tied": bits(np.repeat(RNG.normal(size=(1, 6)), 5, axis=0)),
    "every other row": bits(RNG.normal(size=(10, 12)))[::2],
    "some columns": bits(RNG.normal(size=(6, 40)))[:, 3:20],
    "transposed": bits(RNG.normal(size=(7, 6))).T,
}


def slow(block: np.ndarray) -> list[list[float]]:
    return [[reference.half_value(int(b)) for b in row] for row in block]


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_dot_equals_plain_loops(name, count):
    block = INPUTS[name]
    targets = np.random.default_rng(1).normal(size=(count, block.shape[1]))
    twin = np.array(reference.products(slow(block), targets.tolist())).reshape(len(block), count)
    np.testing.assert_allclose(dot(block, targets), twin, rtol=1e-12, atol=1e-12)


def test_dot_with_no_targets_has_no_columns():
    assert dot(INPUTS["random"], np.zeros((0, 33))).shape == (17, 0)


@pytest.mark.parametrize("hostile", [np.nan, np.inf, -np.inf])
def test_a_target_that_is_no_number_spoils_its_own_column(hostile):
    targets = np.ones((3, 33))
    targets[1, 7] = hostile
    scores = dot(INPUTS["random"], targets)
    assert np.isfinite(scores[:, [0, 2]]).all()
    assert not np.isfinite(scores[:, 1]).any()


@pytest.mark.parametrize("kernel", [dot, cosines])
def test_rows_and_targets_of_different_dimensions_are_refused(kernel):
    with pytest.raises(SchemaError, match=r"uint16\[17, 33\] and targets \[2, 32\] came, expected .* one recipe"):
        kernel(INPUTS["random"], np.ones((2, 32)))
    with pytest.raises(SchemaError, match="float16"):
        kernel(np.ones((2, 3), np.float16), np.ones((2, 3)))


@pytest.mark.parametrize("name", INPUTS)
def test_add_groups_equals_plain_loops_and_adds_in_place(name):
    block = INPUTS[name]
    groups = np.array([i % 3 - 1 for i in range(len(block))], np.int64)
    sums = np.full((2, block.shape[1]), 7.0)
    twin = np.array(reference.group_sums(slow(block), groups.tolist(), sums.tolist())).reshape(sums.shape)
    add_groups(block, groups, sums)
    np.testing.assert_array_equal(sums, twin, "rows of group −1 leaked in, or a sum of halves was rounded")


def test_groups_that_do_not_fit_are_refused_before_a_number_is_written():
    block, sums = INPUTS["random"], np.zeros((2, 33))
    for groups, into in ((np.full(17, 2), sums), (np.zeros(16, np.int64), sums), (np.zeros(17, np.int64), sums[:, 1:])):
        with pytest.raises(SchemaError, match="expected uint16"):
            add_groups(block, groups, into)
    assert not sums.any()


def test_a_nan_row_stays_in_its_own_row_and_group():
    block = INPUTS["NaN"]
    assert np.isnan(dot(block, np.ones((1, 2)))).ravel().tolist() == [True, False]
    sums = np.zeros((2, 2))
    add_groups(block, np.array([-1, 1]), sums)
    assert sums.tolist() == [[0.0, 0.0], [2.0, 3.0]], "a row outside all groups was added"


def test_all_65536_codes_widen_bit_for_bit():
    codes = np.arange(65536, dtype=np.uint16).reshape(-1, 1)
    exact = np.array([reference.half_value(c) for c in range(65536)])
    number = ~np.isnan(exact)
    for widened in (dot(codes, np.ones((1, 1))).ravel(), widen(codes).ravel()):
        assert np.isnan(widened[~number]).all()
        np.testing.assert_array_equal(widened[number], exact[number], "subnormal codes flushed to zero look like this")


@pytest.mark.parametrize("name", INPUTS)
def test_cosines_equal_plain_loops(name):
    block = INPUTS[name]
    targets = np.random.default_rng(1).normal(size=(3, block.shape[1]))
    targets[2] = 0
    twin = [[reference.cosine(row, target) for target in targets.tolist()] for row in slow(block)]
    np.testing.assert_allclose(cosines(block, targets), np.array(twin).reshape(len(block), 3), rtol=1e-12, atol=1e-12)


SCORES = {
    "random": RNG.normal(size=(3, 40)),
    "tied": RNG.integers(0, 3, size=(3, 40)).astype(float),
    "constant": np.ones((2, 9)),
    "NaN": np.where(RNG.random((3, 20)) < 0.5, np.nan, RNG.normal(size=(3, 20))),
    "infinite": np.where(RNG.random((3, 20)) < 0.5, -np.inf, np.inf),
    "no candidates": np.zeros((3, 0)),
    "no lines": np.zeros((0, 4)),
}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("k", [0, 1, 4, 50])
def test_top_k_is_a_sort_whatever_the_blocks_and_their_order(name, k):
    scores = SCORES[name]
    without = np.arange(len(scores))
    for size in (1, 7, 100):
        found, starts = TopK(len(scores), k), list(range(0, scores.shape[1], size))
        for start in starts[::-1]:
            part = slice(start, start + size)
            found.add(scores[:, part], np.arange(scores.shape[1])[part], without)
        for line, row in enumerate(scores.tolist()):
            twin = reference.best(row, range(len(row)), k, line)
            assert found.places[line].tolist() == [p for _, p in twin] + [-1] * (k - len(twin)), "a tie, or a block"
            assert found.values[line, : len(twin)].tolist() == [s for s, _ in twin]
            assert np.isnan(found.values[line, len(twin) :]).all()


@pytest.mark.parametrize("name", ["random", "one row", "constant", "tied", "subnormal", "some columns", "no rows"])
@pytest.mark.parametrize("k", [0, 1, 3, 30])
def test_neighbours_are_those_of_all_products(name, k, monkeypatch):
    monkeypatch.setattr("gradstore.kernels.neighbours.ROWS", 4)  # several tiles of these few rows
    rows = INPUTS[name]
    values, places = neighbours(rows, rows, k, own=np.arange(len(rows)))
    twin = reference.neighbours(slow(rows), slow(rows), k, range(len(rows)))
    assert [[p for p in line if p >= 0] for line in places.tolist()] == twin
    for i, line in enumerate(twin):
        exact = [reference.inner(slow(rows)[i], slow(rows)[p]) for p in line]
        np.testing.assert_allclose(values[i, : len(line)], exact, rtol=1e-12, atol=1e-12)
    assert (places >= 0).sum() == (~np.isnan(values)).sum()


def test_neighbours_among_another_set_may_be_a_row_like_it():
    rows, among = INPUTS["random"][:3], INPUTS["random"]
    assert neighbours(rows, among, 1)[1].ravel().tolist() == [0, 1, 2]
    assert neighbours(rows, among, 1, own=np.array([0, -1, 2]))[1].ravel().tolist()[1] == 1
    with pytest.raises(SchemaError, match="one recipe"):
        neighbours(rows, INPUTS["constant"], 1)


def test_a_herding_step_takes_the_first_of_equals_and_names_the_runner_up():
    toward, among = np.array([0.5, 1.0, 1.0, np.nan, 2.0]), np.zeros(5)
    is_open = np.array([True, True, True, True, False])
    assert tuple(herding_step(toward, among, is_open, 3.0)) == (1, 2, 3.0)
    assert tuple(herding_step(toward, among, is_open & (np.arange(5) == 0), 1.0)) == (0, -1, 0.5)
    assert herding_step(toward, among, np.zeros(5, bool), 1.0)[0] == -1


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (4, 0), (5, 17)])
def test_gains_are_what_is_covered_better(shape):
    near, covered = RNG.random(shape), RNG.random(shape[1])
    np.testing.assert_allclose(gains(near, covered), [reference.gain(row, covered) for row in near], rtol=1e-12)


def test_a_gain_of_nan_shows():
    assert np.isnan(gains(np.array([[0.5, np.nan]]), np.zeros(2))).all()


@compiled
def test_threads_give_the_bits_of_one_thread():
    rows = bits(np.random.default_rng(3).normal(size=(601, 2500)))
    targets, groups = np.random.default_rng(4).normal(size=(5, 2500)), np.arange(601) % 4 - 1
    scores, angles, sums = dot(rows, targets), cosines(rows, targets), np.zeros((3, 2500))
    add_groups(rows, groups, sums)
    apart = np.zeros((3, 2500))
    for start in range(0, 601, 50):  # blocks so small that no thread is woken
        part = slice(start, start + 50)
        np.testing.assert_array_equal(dot(rows[part], targets), scores[part])
        np.testing.assert_array_equal(cosines(rows[part], targets), angles[part])
        add_groups(rows[part], groups[part], apart)
    np.testing.assert_array_equal(sums, apart)
    np.testing.assert_array_equal(widen(rows), rows.view(np.float16).astype(np.float32))


@compiled
def test_many_threads_may_call_at_once():
    """The work queue ends the process when two launch at once; a child process, so that this one would survive it."""
    code = (
        "import threading, numpy as np; from gradstore.kernels.half import dot\n"
        "rows, target = np.zeros((200, 8192), np.uint16), np.ones((1, 8192))\n"
        "def work(): [dot(rows, target) for _ in range(50)]\n"
        "crew = [threading.Thread(target=work) for _ in range(4)]; [t.start() for t in crew]; [t.join() for t in crew]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@compiled
def test_the_loops_do_the_same_interpreted():
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-3000:]
