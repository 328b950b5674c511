"""CRSS and the knowledge flow, against loops."""

import math

import numpy as np
import polars as pl
import pytest

from gradstore.conflicts import crss, nearest_kept
from gradstore.errors import SelectionError
from gradstore.flow import knowledge_flow


def cosine(a, b):
    norm = math.sqrt(math.fsum(x * x for x in a) * math.fsum(x * x for x in b))
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / norm if norm else 0.0


def test_the_nearest_kept_sample_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    refused, kept = rng.normal(size=(7, 5)).astype(np.float16), rng.normal(size=(4, 5)).astype(np.float16)
    refused[3], kept[2] = kept[1], 0
    twin = [max(cosine(a, b) for b in kept.tolist()) for a in refused.tolist()]
    found = nearest_kept(refused, kept)
    np.testing.assert_allclose(found, twin, atol=1e-12)
    assert crss(found, [0.5, 0.999]) == {t: sum(x > t for x in twin) / 7 for t in (0.5, 0.999)}


def test_more_refusals_than_a_block_are_all_compared():
    rng = np.random.default_rng(1)
    refused, kept = rng.normal(size=(2500, 3)), rng.normal(size=(5, 3))
    twin = [max(cosine(a, b) for b in kept.tolist()) for a in refused.tolist()]
    np.testing.assert_allclose(nearest_kept(refused, kept), twin, atol=1e-12)


def test_a_side_without_samples_is_an_error():
    with pytest.raises(SelectionError, match="0 refusals and 2 answers: a conflict needs at least one of each"):
        nearest_kept(np.zeros((0, 2)), np.zeros((2, 2)))


def test_the_flow_counts_each_sample_once_and_on_its_side():
    before, after = pl.Series([0.0, 0.2, 0.4, 0.6, 1.0, 0.5]), pl.Series([0.1, 0.2, 0.6, 0.3, 1.0, 0.6])
    found = knowledge_flow(before, after, bins=4)
    assert found["edges"] == [-1, -0.5, 0, 0.5, 1]
    assert sum(found["known"]) == 3
    assert sum(found["unknown"]) == 3
    assert found["known"] == [0, 1, 2, 0]
    assert found["unknown_improved"] == pytest.approx(2 / 3)
    assert found["known_worsened"] == pytest.approx(1 / 3)
    assert (found["became_known"], found["became_unknown"]) == (1, 1)


def test_a_group_without_members_has_no_share():
    found = knowledge_flow(pl.Series([0.9]), pl.Series([0.8]))
    assert found["unknown_improved"] is None
    with pytest.raises(SelectionError, match="no sample was probed both before and after rehearsal"):
        knowledge_flow(pl.Series([], dtype=pl.Float32), pl.Series([], dtype=pl.Float32))
