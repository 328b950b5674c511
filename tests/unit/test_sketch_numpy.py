"""The projection: the same numbers everywhere, and inner products kept on average."""

import numpy as np
import pytest

from gradstore.errors import GradstoreError
from gradstore.sketch import Sketch, buckets_and_signs, mix, parameter_key
from tests import reference

MOVED = "the hash moved: stored vectors can no longer be compared with new ones"


def project(sketch: Sketch, name: str, values: np.ndarray) -> np.ndarray:
    buckets, signs = buckets_and_signs(sketch, name, len(values))
    out = np.zeros(sketch.dim)
    np.add.at(out, buckets, signs * values[:, None] / np.sqrt(sketch.sparsity))
    return out


def test_golden_buckets_and_signs_never_change():
    assert parameter_key(0, "layer.weight") == 10706033296312444469, MOVED
    buckets, signs = buckets_and_signs(Sketch(), "layer.weight", 4)
    assert buckets.tolist() == [[1989], [4854], [7020], [3223]], MOVED
    assert signs.tolist() == [[-1], [1], [-1], [-1]], MOVED
    buckets, signs = buckets_and_signs(Sketch(dim=1000, seed=3, sparsity=4), "layer.weight", 2)
    assert buckets.tolist() == [[444, 163, 26, 900], [948, 123, 365, 352]], MOVED
    assert signs.tolist() == [[-1, 1, 1, -1], [-1, -1, 1, 1]], MOVED


def test_the_mixer_is_splitmix64():
    # First outputs of SplitMix64 from state 0, as published with the generator.
    states = np.array([1, 2, 3], np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert [hex(v) for v in mix(states)] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


@pytest.mark.parametrize(("dim", "seed", "sparsity"), [(1, 0, 1), (7, 5, 3), (8192, -1, 1), (2**31 - 1, 2**70, 16)])
@pytest.mark.parametrize("name", ["w", "base_model.layers.0.q_proj.lora_A.weight", "größe"])
def test_equals_the_twin_in_python_integers(dim, seed, sparsity, name):
    buckets, signs = buckets_and_signs(Sketch(dim=dim, seed=seed, sparsity=sparsity), name, 20)
    twin = [[reference.bucket_and_sign(seed, name, dim, sparsity, i, k) for k in range(sparsity)] for i in range(20)]
    assert np.dstack([buckets, signs]).tolist() == [[list(pair) for pair in row] for row in twin]


def test_projected_values_equal_the_twin():
    values = np.random.default_rng(0).normal(size=50)
    twin = reference.sketched(values.tolist(), 1, "w", 16, 4)
    np.testing.assert_allclose(project(Sketch(dim=16, seed=1, sparsity=4), "w", values), twin, atol=1e-12)


@pytest.mark.parametrize("sparsity", [1, 4])
def test_inner_products_are_kept_in_expectation(sparsity):
    rng = np.random.default_rng(0)
    x = rng.normal(size=300) / 300**0.5
    y = 0.6 * x + 0.8 * rng.normal(size=300) / 300**0.5
    sketches = [Sketch(dim=64, seed=s, sparsity=sparsity) for s in range(400)]
    products = np.array([project(s, "w", x) @ project(s, "w", y) for s in sketches])
    error = products.mean() - x @ y
    spread = products.std() / len(products) ** 0.5
    assert abs(error) < 4 * spread, f"biased by {error:.4f}: signs that correlate with buckets, or a wrong 1/√s"
    assert products.std() < 2.5 / 64**0.5, f"spread {products.std():.3f}, expected about √(2/dim): too many collisions"


def test_another_name_or_seed_hashes_elsewhere():
    one = buckets_and_signs(Sketch(), "a.weight", 1000)[0]
    for sketch, name in ((Sketch(), "b.weight"), (Sketch(seed=1), "a.weight")):
        agreeing = (buckets_and_signs(sketch, name, 1000)[0] == one).sum()
        assert agreeing < 5, f"{agreeing} of 1000 coordinates share a bucket: parameters add up in step"


def test_a_longer_parameter_starts_with_the_same_buckets():
    short, long = (buckets_and_signs(Sketch(sparsity=2), "w", n) for n in (10, 1000))
    assert all((a == b[:10]).all() for a, b in zip(short, long, strict=True))


@pytest.mark.parametrize("dim", [64, 100])
def test_buckets_and_signs_are_near_uniform(dim):
    size = 100_000
    buckets, signs = buckets_and_signs(Sketch(dim=dim), "w", size)
    counts = np.bincount(buckets.ravel(), minlength=dim)
    chi2 = ((counts - size / dim) ** 2 / (size / dim)).sum()
    assert len(counts) == dim
    assert abs(chi2 - dim) < 5 * (2 * dim) ** 0.5, f"χ² {chi2:.0f} for {dim} buckets: some hold too much"
    assert abs(int(signs.sum())) < 5 * size**0.5
    assert set(np.unique(signs)) == {-1, 1}


def test_an_empty_parameter_goes_nowhere():
    assert [a.shape for a in buckets_and_signs(Sketch(sparsity=3), "w", 0)] == [(0, 3), (0, 3)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dim": 0}, "sketch of dim 0 and sparsity 1: dim ≥ 1"),
        ({"dim": 2**31}, "dim ≥ 1, sparsity 1–16"),
        ({"sparsity": 0}, "sparsity 0: dim ≥ 1, sparsity 1–16"),
        ({"sparsity": 17}, "sparsity 17"),
        ({"kind": "gauss"}, "sketch kind 'gauss': expected countsketch, rademacher"),
        ({"kind": "rademacher", "sparsity": 2}, "a rademacher sketch is dense: sparsity 2 belongs to countsketch"),
    ],
)
def test_impossible_sketches_are_refused(wrong, message):
    with pytest.raises(GradstoreError, match=message):
        Sketch(**wrong)


def test_settings_are_columns_of_the_recipes_table():
    from gradstore.schemas import TABLES

    columns = Sketch(dim=16, seed=1, sparsity=2).as_columns()
    assert columns == {"sketch_kind": "countsketch", "sketch_dim": 16, "sketch_seed": 1, "sketch_sparsity": 2}
    assert set(columns) <= set(TABLES["recipes"].schema.names)
