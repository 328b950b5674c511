"""The kernels over float16 bits against plain loops, on ordinary and on hostile input.

They run compiled only: the widening intrinsic emits LLVM, which the interpreter (NUMBA_DISABLE_JIT=1) cannot.
"""

import math

import numpy as np
import pytest

from gradstore.kernels.half import add_groups, dot
from tests import reference

RNG = np.random.default_rng(0)


def bits(values) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(np.float16).view(np.uint16)


INPUTS = {
    "random": bits(RNG.normal(size=(17, 33))),
    "no rows": np.zeros((0, 5), np.uint16),
    "one row": bits([[0.5, -0.25, 3.0]]),
    "one column": bits([[1.0], [2.0], [-3.0]]),
    "constant": bits(np.full((4, 9), 0.1)),
    "zero": bits([[0.0, -0.0], [-0.0, 0.0]]),
    "NaN": bits([[1.0, np.nan], [2.0, 3.0]]),
    "infinite": bits([[np.inf, 1.0], [-np.inf, 2.0], [1e5, 3.0]]),
    "subnormal": bits(np.full((3, 4), 2.0**-24)),
    "tied": bits(np.repeat(RNG.normal(size=(1, 6)), 5, axis=0)),
}


def slow(block: np.ndarray) -> list[list[float]]:
    return [[reference.half_value(int(b)) for b in row] for row in block]


@pytest.mark.parametrize("name", INPUTS)
def test_dot_equals_plain_loops(name):
    block = INPUTS[name]
    targets = np.random.default_rng(1).normal(size=(3, block.shape[1]))
    twin = [[sum(x * t for x, t in zip(row, target, strict=True)) for target in targets] for row in slow(block)]
    np.testing.assert_allclose(dot(block, targets), np.array(twin).reshape(len(block), 3), rtol=1e-12, atol=1e-12)


def test_dot_with_no_targets_has_no_columns():
    assert dot(INPUTS["random"], np.zeros((0, 33))).shape == (17, 0)


@pytest.mark.parametrize("name", INPUTS)
def test_add_groups_equals_plain_loops_and_adds_in_place(name):
    block = INPUTS[name]
    groups = np.array([i % 3 - 1 for i in range(len(block))], np.int64)
    sums = np.full((2, block.shape[1]), 7.0)
    twin = sums.tolist()
    for row, group in zip(slow(block), groups, strict=True):
        if group >= 0:
            twin[group] = [s + x for s, x in zip(twin[group], row, strict=True)]
    add_groups(block, groups, sums)
    np.testing.assert_array_equal(sums, twin, "rows of group −1 leaked in, or the order of additions changed")


def test_a_nan_row_stays_in_its_own_row_and_group():
    block = INPUTS["NaN"]
    assert np.isnan(dot(block, np.ones((1, 2)))).ravel().tolist() == [True, False]
    sums = np.zeros((2, 2))
    add_groups(block, np.array([-1, 1]), sums)
    assert sums.tolist() == [[0.0, 0.0], [2.0, 3.0]], "a row outside all groups was added"


def test_all_65536_codes_widen_bit_for_bit():
    codes = np.arange(65536, dtype=np.uint16).reshape(-1, 1)
    widened = dot(codes, np.ones((1, 1))).ravel()
    exact = np.array([reference.half_value(c) for c in range(65536)])
    number = ~np.isnan(exact)
    assert np.isnan(widened[~number]).all()
    np.testing.assert_array_equal(widened[number], exact[number], "subnormal codes flushed to zero look like this")


def test_the_sign_of_zero_survives_widening():
    sums = np.full((1, 1), -0.0)
    add_groups(bits([[-0.0]]), np.array([0]), sums)
    assert math.copysign(1, sums[0, 0]) == -1


def test_sums_are_float64_wide():
    n = 5000
    sums = np.zeros((1, 1))
    add_groups(bits(np.full((n, 1), 0.1)), np.zeros(n, np.int64), sums)
    each = reference.half_value(int(bits([0.1])[0]))
    assert abs(sums[0, 0] - n * each) < 1e-9, f"{sums[0, 0]} instead of {n * each}: added up in float32 or float16"


def test_a_sliced_block_reads_its_own_rows():
    block = INPUTS["random"]
    targets = np.eye(33)
    np.testing.assert_array_equal(dot(block[3:9], targets), dot(block, targets)[3:9])
