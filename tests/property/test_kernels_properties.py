"""What the kernels promise of any rows: exact sums, and scores that know nothing of the rows around them."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gradstore.kernels.cosine import cosines
from gradstore.kernels.half import add_groups, dot
from gradstore.kernels.neighbours import neighbours
from gradstore.kernels.topk import TopK

FINITE = st.integers(0, 65535).filter(lambda b: b >> 10 & 31 != 31)  # every float16 that is a number
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def blocks(draw, codes=FINITE):
    rows, dim = draw(st.integers(1, 14)), draw(st.integers(1, 9))
    return np.array(draw(st.lists(codes, min_size=rows * dim, max_size=rows * dim)), np.uint16).reshape(rows, dim)


@given(block=blocks(), seed=SEEDS)
def test_sums_of_halves_are_exact_in_any_order(block, seed):
    draws = np.random.default_rng(seed)
    groups, order = draws.integers(-1, 3, len(block)), draws.permutation(len(block))
    sums = np.zeros((2, 3, block.shape[1]))
    add_groups(block, groups, sums[0])
    for part in np.array_split(order, 3):
        add_groups(block[part], groups[part], sums[1])
    assert sums[0].tobytes() == sums[1].tobytes(), "the bits of a sum depend on the order of its rows"
    wide = block.view(np.float16).astype(float)
    for group in range(3):
        exact = [math.fsum(column) for column in wide[groups == group].T]
        assert sums[0, group].tolist() == exact, "a sum was rounded"


@given(block=blocks(st.integers(0, 65535)), seed=SEEDS)
@settings(deadline=None)
def test_a_score_depends_on_its_row_and_its_target_alone(block, seed):
    draws = np.random.default_rng(seed)
    targets, order = draws.normal(size=(5, block.shape[1])), draws.permutation(len(block))
    for kernel in (dot, cosines):
        scores = kernel(block, targets)
        np.testing.assert_array_equal(kernel(block[order], targets), scores[order])
        np.testing.assert_array_equal(kernel(block[:1], targets[3:4]), scores[:1, 3:4])


@given(seed=SEEDS, size=st.integers(1, 30), k=st.integers(1, 6))
def test_the_best_of_a_stream_do_not_depend_on_how_it_is_cut(seed, size, k):
    scores = np.random.default_rng(seed).integers(0, 4, (2, 30)).astype(float)
    whole, cut = TopK(2, k), TopK(2, k)
    whole.add(scores, np.arange(30))
    for start in range(0, 30, size):
        cut.add(scores[:, start : start + size], np.arange(30)[start : start + size])
    np.testing.assert_array_equal(cut.places, whole.places)
    np.testing.assert_array_equal(cut.values, whole.values)


@given(seed=SEEDS, k=st.integers(1, 5))
@settings(deadline=None)
def test_neighbours_of_rows_in_another_order_are_the_same_rows(seed, k):
    draws = np.random.default_rng(seed)
    rows = draws.normal(size=(12, 7)).astype(np.float16).view(np.uint16)
    order = draws.permutation(12)
    values, places = neighbours(rows, rows, k, own=np.arange(12))
    again, moved = neighbours(rows[order], rows[order], k, own=np.arange(12))
    np.testing.assert_array_equal(order[moved], places[order])
    np.testing.assert_array_equal(again, values[order])
