"""Per-sample gradients, the Adam feature and the sketch, each against the slow and certain way."""

import copy

import numpy as np
import pytest
import torch

from gradstore import sketch as sketch_module
from gradstore.models import features, projection
from gradstore.models.adapters import adapter_parameters, add_lora
from gradstore.models.encoding import Encoded
from gradstore.models.extraction import Extractor, Item
from gradstore.models.loading import LoadedModel
from gradstore.models.pretraining import small_llama, word_tokenizer
from gradstore.sketch import Sketch
from tests import reference
from tests.families import autograd, hooked

WORDS = [f"w{i}" for i in range(60)]


@pytest.fixture(scope="module")
def loaded():
    tokenizer = word_tokenizer([" " + " ".join(WORDS)])
    model = small_llama(tokenizer, width=32, layers=2, heads=4, seed=3).eval()
    return LoadedModel(model, tokenizer, "m", torch.device("cpu"), "float32", "sdpa")


@pytest.fixture(scope="module")
def adapted(loaded):
    model = add_lora(copy.deepcopy(loaded.model), r=4, alpha=8, targets="all-linear", seed=1)
    generator = torch.Generator().manual_seed(7)
    for parameter in adapter_parameters(model).values():  # B is zero at first, which would hide half the gradient
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def batch():
    draws = np.random.default_rng(0)
    lengths = [(9, 6), (5, 3), (14, 13), (5, 1), (3, 2)]
    return [Encoded(draws.integers(4, 60, n).tolist(), start, "ok") for n, start in lengths]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_batched_gradients_equal_batch_one_autograd(adapted, batch, side, size):
    expected = [autograd(adapted, e) for e in batch]
    for start in range(0, len(batch), size):
        part = batch[start : start + size]
        found, losses = hooked(adapted, part, side)
        assert found.keys() == expected[0][0].keys()
        for i in range(len(part)):
            grads, loss = expected[start + i]
            assert losses[i].item() == pytest.approx(loss, rel=1e-5), "the loss is not the mean over response tokens"
            for name, gradient in grads.items():
                error = (found[name][i].double() - gradient).norm() / gradient.norm()
                assert error <= 1e-5, f"{name}, sample {start + i}, padding {side}: relative error {error:.1e}"


def test_the_gradient_checker_can_fail(adapted, batch):
    """A mean over the batch, the classic mistake, is 1/b too small and must be seen."""
    found, _ = hooked(adapted, batch[:2], "right")
    name, gradient = next(iter(autograd(adapted, batch[0])[0].items()))
    assert (found[name][0].double() / 2 - gradient).norm() / gradient.norm() > 0.4


@pytest.mark.parametrize(("betas", "eps", "steps"), [((0.9, 0.999), 1e-8, 3), ((0.8, 0.99), 1e-6, 1)])
def test_adam_feature_is_the_step_a_real_adamw_takes(betas, eps, steps):
    """The update of torch.optim.AdamW for this sample's gradient, divided by its learning rate."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(30, generator=generator, dtype=torch.float64))
    rate = 1e-3
    optimizer = torch.optim.AdamW([weight], lr=rate, betas=betas, eps=eps, weight_decay=0.0)
    for _ in range(steps):
        weight.grad = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        optimizer.step()
    state = optimizer.state[weight]
    moments = features.Moments({"w": (state["exp_avg"].clone(), state["exp_avg_sq"].clone())}, steps, *betas, eps)
    sample = torch.randn(weight.shape, generator=generator, dtype=torch.float64) * 1e-3
    feature = features.direction("adam", "w", moments)(sample[None])[0]
    before = weight.detach().clone()
    weight.grad = sample
    optimizer.step()
    step = (before - weight.detach()) / rate
    assert torch.allclose(feature, step, rtol=1e-9, atol=1e-12)
    without_correction = features.direction("less", "w", moments)(sample[None])[0]
    assert not torch.allclose(without_correction, step, rtol=1e-2), "this test could not tell LESS's formula apart"


def state(size, seed=0, dtype=torch.float32):
    """Gradients (5, size) with zeros among them, and moments, some of parameters that never moved."""
    generator = torch.Generator().manual_seed(seed)
    m, v = (torch.randn(size, generator=generator) * 1e-3, torch.rand(size, generator=generator) * 1e-6)
    m[: size // 8], v[: size // 8] = 0, 0
    g = torch.randn(5, size, generator=generator) * 1e-3
    g[:, : size // 16], g[4] = 0, 0
    return g.to(dtype), features.Moments({"w": (m.to(dtype), v.to(dtype))}, 9, 0.9, 0.999, 1e-8)


@pytest.mark.parametrize("feature", features.FEATURES)
def test_every_feature_is_its_formula(feature):
    g, moments = state(64, dtype=torch.float64)
    m, v = moments.by_name["w"]
    found = features.direction(feature, "w", moments)(g)
    for i in range(5):
        expected = [
            reference.feature(feature, *x, step=9, beta1=0.9, beta2=0.999, eps=1e-8)
            for x in zip(g[i].tolist(), m.tolist(), v.tolist(), strict=True)
        ]
        assert found[i].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_delta_is_zero_for_a_sample_without_gradient_and_precise_for_a_faint_one():
    _, moments = state(64)
    delta = features.direction("adam-delta", "w", moments)
    assert not delta(torch.zeros(1, 64)).any()
    exact = features.direction("adam-delta", "w", state(64, dtype=torch.float64)[1])
    faint = torch.full((1, 64), 1e-9)
    assert torch.allclose(delta(faint).double(), exact(faint.double()), rtol=1e-5), "two near-equal numbers subtracted"


def test_features_that_need_moments_say_so():
    with pytest.raises(features.CheckpointError, match="needs Adam's moments of w.*--feature sgd"):
        features.direction("adam", "w", None)


@pytest.mark.parametrize("backend", projection.BACKENDS)
@pytest.mark.parametrize("feature", features.FEATURES)
@pytest.mark.parametrize(("size", "sparsity"), [(1, 1), (700, 1), (700, 4)])
def test_every_backend_adds_the_same_sketch(feature, backend, size, sparsity):
    """Within 1e-6 of the slow twin's float64, from a block that is not empty to begin with."""
    g, moments = state(size, seed=size)
    m, v = moments.by_name["w"]
    chosen = Sketch(dim=97, seed=3, sparsity=sparsity)
    projector = projection.Projector(chosen, torch.device("cpu"), backend)
    block = projector.zeros(5) + 1
    projector.add(block, "w", g, features.direction(feature, "w", moments))
    for i in range(5):
        values = [
            reference.feature(feature, *x, step=9, beta1=0.9, beta2=0.999, eps=1e-8)
            for x in zip(g[i].tolist(), m.tolist(), v.tolist(), strict=True)
        ]
        expected = torch.tensor(reference.sketched(values, 3, "w", 97, sparsity)) + 1
        assert (block[i] - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("backend", projection.BACKENDS)
@pytest.mark.parametrize("feature", features.FEATURES)
def test_a_gradient_that_is_not_a_number_stays_so_in_every_backend(feature, backend):
    """Or a broken sample would be stored as a good one."""
    g, moments = state(20)
    g[1, 3], g[2, 19] = torch.nan, torch.nan
    projector = projection.Projector(Sketch(dim=8), torch.device("cpu"), backend)
    block = projector.zeros(5)
    projector.add(block, "w", g, features.direction(feature, "w", moments))
    assert torch.isfinite(block).all(dim=1).tolist() == [True, False, False, True, True]


@pytest.mark.parametrize("sparsity", [1, 4])
def test_torch_and_numpy_sketch_have_the_same_bits(sparsity):
    chosen = Sketch(dim=1000, seed=5, sparsity=sparsity)
    for name, size in (("a.lora_A.weight", 777), ("b", 1)):
        expected = sketch_module.buckets_and_signs(chosen, name, size)
        found = projection.buckets_and_signs(chosen, name, size, torch.device("cpu"))
        assert all(np.array_equal(e, f.numpy()) for e, f in zip(expected, found, strict=True))


@pytest.mark.parametrize("dim", [64, 100])
def test_dense_signs_have_the_same_bits_in_torch_numpy_and_plain_integers(dim):
    chosen = Sketch("rademacher", dim=dim, seed=5)
    found = projection.dense_signs(chosen, "a", 3, 9, torch.device("cpu"))
    assert np.array_equal(sketch_module.dense_signs(chosen, "a", 3, 9), found.numpy())
    assert found.tolist() == [[reference.dense_sign(5, "a", dim, i, j) for j in range(dim)] for i in range(3, 9)]


def test_a_dense_sketch_is_the_product_with_its_signs():
    g, moments = state(2500)
    chosen = Sketch("rademacher", dim=70)
    projector = projection.Projector(chosen, torch.device("cpu"))
    block = projector.zeros(5)
    projector.add(block, "w", g, features.direction("sgd", "w", moments))
    expected = g.double().numpy() @ sketch_module.dense_signs(chosen, "w", 0, 2500) / 70**0.5
    assert np.allclose(block.numpy(), expected, rtol=1e-4, atol=1e-7)


PLAIN = features.direction("sgd", "w", None)


def test_sketch_has_golden_values():
    """Changing these changes every stored vector."""
    projector = projection.Projector(Sketch(dim=8, seed=0), torch.device("cpu"))
    block = projector.zeros(1)
    projector.add(block, "base_model.model.q_proj.lora_A.weight", torch.arange(1.0, 11.0).view(1, 2, 5), PLAIN)
    assert block[0].tolist() == GOLDEN


GOLDEN = [0.0, 0.0, 3.0, 5.0, 2.0, 0.0, -6.0, -19.0]


@pytest.mark.parametrize("backend", projection.BACKENDS)
def test_a_sketch_does_not_depend_on_batch_size_or_module_order(backend):
    generator = torch.Generator().manual_seed(1)
    parts = {n: torch.randn(4, 30, 50, generator=generator) for n in ("x", "y", "z")}

    def project(names, rows):
        projector = projection.Projector(Sketch(dim=64, sparsity=2), torch.device("cpu"), backend)
        block = projector.zeros(len(rows))
        for name in names:
            projector.add(block, name, parts[name][rows], PLAIN)
        return block

    whole = project("xyz", [0, 1, 2, 3])
    assert torch.equal(whole, project("xyz", [0, 1, 2, 3])), "the same sum twice has other bits"
    assert torch.allclose(whole, project("zxy", [0, 1, 2, 3]), rtol=1e-4, atol=1e-4)
    assert torch.equal(whole, torch.cat([project("xyz", [i]) for i in range(4)])), "a row's bits depend on its batch"


def test_sketches_preserve_inner_products_of_real_gradients(adapted, batch):
    """Cosines of sketches to 8192 floats are near those of the exact gradients."""
    exact = torch.stack([torch.cat([g.flatten() for g in autograd(adapted, e)[0].values()]) for e in batch])
    exact = torch.nn.functional.normalize(exact, dim=1)
    errors = []
    for seed in range(5):
        projector = projection.Projector(Sketch(seed=seed), torch.device("cpu"))
        block = projector.zeros(len(batch))
        for name, gradient in hooked(adapted, batch, "right")[0].items():
            projector.add(block, name, gradient, PLAIN)
        sketched = torch.nn.functional.normalize(block.double(), dim=1)
        errors.append((sketched @ sketched.T - exact @ exact.T).abs().max())
    # a JL bound: the standard deviation of an inner product of unit vectors is at most sqrt(2/dim) = 0.016
    assert max(errors) < 0.08, f"largest error of a cosine {max(errors):.3f}: not a random projection"


def test_rows_carry_status_and_unit_vectors(loaded, adapted, batch):
    extractor = Extractor(loaded, copy.deepcopy(adapted), None, "sgd", Sketch(dim=256))
    items = [Item(f"s{i}", "answer", e) for i, e in enumerate(batch)]
    items += [Item("s9", "refusal", Encoded([5, 6], 2, "truncated"))]
    rows = extractor.rows(items).to_pylist()
    assert [r["status"] for r in rows] == ["ok"] * 5 + ["truncated"]
    assert rows[5]["vector"] is None
    assert rows[5]["norm"] is None
    for row in rows[:5]:
        assert np.linalg.norm(np.array(row["vector"], np.float64)) == pytest.approx(1, abs=2e-3)
    assert [r["n_tokens"] for r in rows[:5]] == [3, 2, 1, 4, 1]


def test_nan_and_zero_gradients_are_marked_and_keep_their_neighbours(loaded, adapted, batch):
    broken = copy.deepcopy(adapted)
    with torch.no_grad():
        broken.get_input_embeddings().weight[59] = torch.nan
    items = [Item("good", "answer", batch[0]), Item("bad", "answer", Encoded([4, 59, 7], 1, "ok"))]
    rows = Extractor(loaded, broken, None, "sgd", Sketch(dim=64)).rows(items).to_pylist()
    assert [r["status"] for r in rows] == ["ok", "nan"]
    zero = copy.deepcopy(adapted)
    for parameter in adapter_parameters(zero).values():
        parameter.data.zero_()
    assert Extractor(loaded, zero, None, "sgd", Sketch(dim=64)).rows(items[:1])["status"].to_pylist() == ["zero"]


def test_pairs_make_the_rows_that_their_halves_make(loaded, adapted):
    asked = [5, 6, 7, 8, 9, 10, 11]
    pairs = []
    for n, tails in enumerate([([12], [13, 14]), ([15, 16, 17], [18])]):
        pairs.append(tuple(Item(f"s{n}", r, Encoded(asked + t, 7, "ok")) for r, t in zip("ab", tails, strict=True)))
    extractor = Extractor(loaded, copy.deepcopy(adapted), None, "sgd", Sketch(dim=256))
    together, apart = extractor.pair_rows(pairs), extractor.rows([i for p in pairs for i in p])
    keys = [(r["sample_id"], r["response"]) for r in together.to_pylist()]
    assert keys == [("s0", "a"), ("s1", "a"), ("s0", "b"), ("s1", "b")]
    found = {(r["sample_id"], r["response"]): r for r in apart.to_pylist()}
    for row in together.to_pylist():
        other = found[row["sample_id"], row["response"]]
        assert row["norm"] == pytest.approx(other["norm"], rel=1e-5)
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert np.allclose(np.array(row["vector"], float), np.array(other["vector"], float), atol=1e-3)
