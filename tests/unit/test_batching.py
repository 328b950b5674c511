"""A plan of batches depends on the set of ids and lengths alone."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradstore.batching import group_commits, plan_batches

LENGTHS = st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.integers(1, 300), max_size=60)


@settings(deadline=None, max_examples=80)
@given(LENGTHS, st.integers(1, 1000), st.integers(1, 10))
def test_each_id_once_and_no_batch_over_budget_unless_single(lengths, budget, copies):
    plan = plan_batches(lengths, budget, copies)
    assert sorted(i for batch in plan for i in batch) == sorted(lengths)
    for batch in plan:
        padded = max(lengths[i] for i in batch) * len(batch) * copies
        assert batch
        assert padded <= budget or len(batch) == 1, f"{padded} padded tokens where {budget} were allowed"


@settings(deadline=None, max_examples=50)
@given(LENGTHS, st.integers(1, 1000), st.randoms(use_true_random=False))
def test_the_plan_does_not_depend_on_the_order_of_arrival(lengths, budget, shuffler: random.Random):
    items = list(lengths.items())
    shuffler.shuffle(items)
    assert plan_batches(dict(items), budget) == plan_batches(lengths, budget)


@settings(deadline=None, max_examples=50)
@given(LENGTHS, st.integers(1, 1000))
def test_batches_are_filled_as_far_as_the_budget_goes(lengths, budget):
    plan = plan_batches(lengths, budget)
    for batch, after in pairwise(plan):
        assert (len(batch) + 1) * lengths[after[0]] > budget, "the next id would have fitted"


def test_ids_of_one_length_go_by_name():
    assert plan_batches({"b": 5, "a": 5, "c": 1}, 10) == [["c", "a"], ["b"]]
    assert plan_batches({"b": 5, "a": 5}, 10, copies=2) == [["a"], ["b"]]


def test_nothing_to_plan():
    assert plan_batches({}, 10) == []
    assert list(group_commits([])) == []


@settings(deadline=None, max_examples=80)
@given(st.lists(st.lists(st.text("ab", max_size=2), min_size=1, max_size=5), max_size=30), st.integers(1, 12))
def test_commits_hold_whole_batches_in_order_and_enough_ids(batches, rows):
    commits = list(group_commits(batches, rows))
    assert [b for commit in commits for b in commit] == batches
    sizes = [sum(map(len, commit)) for commit in commits]
    assert all(size >= rows for size in sizes[:-1]), "a small commit in the middle: too many versions"
    assert all(size - len(commit[-1]) < rows for size, commit in zip(sizes, commits, strict=True)), "commit too large"


@pytest.mark.parametrize("sizes", [[512], [500, 12], [600, 1]])
def test_the_default_commit_is_512_ids(sizes):
    batches = [["x"] * n for n in sizes]
    assert next(iter(group_commits(batches))) == (batches[:1] if sizes[0] >= 512 else batches)
