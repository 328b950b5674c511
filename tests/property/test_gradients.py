"""Per-sample gradients, the Adam feature and the sketch, each against the slow and certain way."""

import copy

import numpy as np
import pytest
import torch

from gradstore import sketch as sketch_module
from gradstore.models import features, gradients, projection
from gradstore.models.adapters import adapter_parameters, add_lora, lora_linears
from gradstore.models.encoding import Encoded
from gradstore.models.extraction import Extractor, Item
from gradstore.models.loading import LoadedModel
from gradstore.models.pretraining import small_llama, word_tokenizer
from gradstore.sketch import Sketch

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
    return model.eval()


@pytest.fixture(scope="module")
def batch():
    draws = np.random.default_rng(0)
    lengths = [(9, 6), (5, 3), (14, 13), (5, 1), (3, 2)]
    return [Encoded(draws.integers(4, 60, n).tolist(), start, "ok") for n, start in lengths]


def autograd(adapted, encoded):
    """Gradient of one sample at batch size 1, no padding, by plain autograd through the model's own labels."""
    model = copy.deepcopy(adapted)
    parameters = adapter_parameters(model)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    ids, labels = torch.tensor([encoded.ids]), torch.tensor([encoded.labels])
    loss = model(input_ids=ids, labels=labels).loss
    loss.backward()
    return {n: p.grad.double() for n, p in parameters.items()}, loss.item()


def hooked(adapted, batch, side):
    model = copy.deepcopy(adapted).requires_grad_(False)
    with gradients.GradientHooks(lora_linears(model)) as hooks:
        losses = gradients.backward(model, batch, pad_id=2, device=torch.device("cpu"), side=side)
        found = dict(hooks.gradients())
    assert all(p.grad is None for p in model.parameters()), "a weight's own gradient was formed"
    return found, losses


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
    weight = torch.nn.Parameter(torch.randn(6, 5, generator=generator, dtype=torch.float64))
    rate = 1e-3
    optimizer = torch.optim.AdamW([weight], lr=rate, betas=betas, eps=eps, weight_decay=0.0)
    for _ in range(steps):
        weight.grad = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        optimizer.step()
    state = optimizer.state[weight]
    moments = features.Moments({"w": (state["exp_avg"].clone(), state["exp_avg_sq"].clone())}, steps, *betas, eps)
    sample = torch.randn(weight.shape, generator=generator, dtype=torch.float64) * 1e-3
    feature = features.direction("adam", "w", sample[None], moments)[0]
    before = weight.detach().clone()
    weight.grad = sample
    optimizer.step()
    step = (before - weight.detach()) / rate
    assert torch.allclose(feature, step, rtol=1e-9, atol=1e-12)
    without_correction = features.direction("less", "w", sample[None], moments)[0]
    assert not torch.allclose(without_correction, step, rtol=1e-2), "this test could not tell LESS's formula apart"


def test_less_feature_has_eps_inside_the_root():
    m, v, g = (torch.full((2, 2), x) for x in (0.1, 0.0, 1e-3))
    found = features.direction("less", "w", g[None], features.Moments({"w": (m, v)}, 9, 0.5, 0.5, 1.0))
    assert torch.allclose(found[0], (0.9 * m + 0.1 * g) / torch.sqrt(0.001 * g * g + 1e-8))


def test_feature_sgd_is_the_gradient_and_the_others_need_moments():
    g = torch.ones(1, 2, 2)
    assert torch.equal(features.direction("sgd", "w", g, None), g)
    with pytest.raises(features.CheckpointError, match="needs Adam's moments of w.*--feature sgd"):
        features.direction("adam", "w", g, None)


@pytest.mark.parametrize("sparsity", [1, 4])
def test_torch_and_numpy_sketch_have_the_same_bits(sparsity):
    chosen = Sketch(dim=1000, seed=5, sparsity=sparsity)
    for name, size in (("a.lora_A.weight", 777), ("b", 1)):
        expected = sketch_module.buckets_and_signs(chosen, name, size)
        found = projection.buckets_and_signs(chosen, name, size, torch.device("cpu"))
        assert all(np.array_equal(e, f.numpy()) for e, f in zip(expected, found, strict=True))


def test_sketch_has_golden_values():
    """Changing these changes every stored vector."""
    projector = projection.Projector(Sketch(dim=8, seed=0), torch.device("cpu"))
    block = projector.zeros(1)
    projector.add(block, "base_model.model.q_proj.lora_A.weight", torch.arange(1.0, 11.0).view(1, 2, 5))
    assert block[:, 0].tolist() == GOLDEN


GOLDEN = [0.0, 0.0, 3.0, 5.0, 2.0, 0.0, -6.0, -19.0]


def test_a_sketch_does_not_depend_on_batch_size_or_module_order():
    generator = torch.Generator().manual_seed(1)
    parts = {n: torch.randn(4, 3, 5, generator=generator) for n in ("x", "y", "z")}

    def project(names, rows):
        projector = projection.Projector(Sketch(dim=64, sparsity=2), torch.device("cpu"))
        block = projector.zeros(len(rows))
        for name in names:
            projector.add(block, name, parts[name][rows])
        return block.T

    whole = project("xyz", [0, 1, 2, 3])
    assert torch.allclose(whole, project("zxy", [0, 1, 2, 3]), atol=1e-6)
    assert torch.allclose(whole, torch.cat([project("yzx", [i]) for i in range(4)]), atol=1e-6)


def test_sketches_preserve_inner_products_of_real_gradients(adapted, batch):
    """Cosines of sketches to 8192 floats are near those of the exact gradients."""
    exact = torch.stack([torch.cat([g.flatten() for g in autograd(adapted, e)[0].values()]) for e in batch])
    exact = torch.nn.functional.normalize(exact, dim=1)
    errors = []
    for seed in range(5):
        projector = projection.Projector(Sketch(seed=seed), torch.device("cpu"))
        block = projector.zeros(len(batch))
        for name, gradient in hooked(adapted, batch, "right")[0].items():
            projector.add(block, name, gradient)
        sketched = torch.nn.functional.normalize(block.T.double(), dim=1)
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


def test_an_adapter_that_is_not_plain_lora_is_refused(loaded):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules=["q_proj"], use_dora=True, task_type="CAUSAL_LM")
    model = get_peft_model(copy.deepcopy(loaded.model), config)
    with pytest.raises(Exception, match="not a plain LoRA matrix|besides it this adapter trains"):
        lora_linears(model)
