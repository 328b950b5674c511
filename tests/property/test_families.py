"""Model families × adapters × padding × precision: batched gradients are those of one sample at a time."""

import copy
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from gradstore.errors import ModelError
from gradstore.models.adapters import Site, changes_base, trained_sites
from gradstore.models.encoding import Encoded
from gradstore.models.extraction import Extractor
from gradstore.models.gradients import GradientHooks
from gradstore.models.loading import LoadedModel, checkpoint_activations
from gradstore.sketch import Sketch
from tests import families

QUICK = [c for c in families.combinations() if c[1] == "lora" or c[0] in ("llama", "gpt2")]
SLOW = [pytest.param(*c, marks=pytest.mark.slow) for c in families.combinations() if c not in QUICK]
WINDOWED = ("mistral", "gemma2")


def extractor(model, attention="sdpa", dtype="float32"):
    tokenizer = SimpleNamespace(pad_token_id=2)
    loaded = LoadedModel(model.get_base_model(), tokenizer, "m", torch.device("cpu"), dtype, attention)
    return Extractor(loaded, model, None, "sgd", Sketch(dim=256))


@pytest.mark.parametrize(("family", "variant"), [*QUICK, *SLOW])
def test_batched_gradients_equal_batch_one_autograd(family, variant):
    found = families.row(family, variant)
    assert found["right"] <= 1e-5
    assert found["left"] <= 1e-5
    if family not in WINDOWED:
        assert found["prompt once"] <= 1e-5, "a response saw the other one, or its positions are off"
    assert found["bfloat16"] <= 2e-2
    assert found["float16"] <= 3e-3


@pytest.mark.parametrize("family", ["llama", *WINDOWED])
def test_a_prompt_is_not_shared_where_that_would_not_be_exact(family):
    model, attention = families.build(family)
    one = extractor(model, attention)
    pair = families.pairs()[1]
    assert one.can_share(*pair) == (family not in WINDOWED)
    assert not extractor(model, "flex_attention").can_share(*pair)


def test_a_leak_from_one_response_to_the_other_is_found_out(monkeypatch):
    """Here only the tree mask leaks; the means of the losses might still agree."""
    model, _ = families.build("llama")
    one = extractor(model)
    assert one.can_share(*families.pairs()[1])
    monkeypatch.setattr(
        "gradstore.models.losses._tree_mask",
        lambda layouts, forward: torch.ones(1, 1, *[max(len(x.ids) for x in layouts)] * 2, dtype=torch.bool).tril(),
    )
    monkeypatch.setattr("gradstore.models.extraction.SHARING_TOLERANCE", {"float32": (1e9, 1e-5)})
    assert not one.can_share(*families.pairs()[1])


def test_a_module_called_with_more_than_its_input_is_refused():
    class Gated(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(32))

        def forward(self, x, gate=None):
            return x * self.weight * (1 if gate is None else gate)

    hooks = GradientHooks([Site(gated := Gated(), {"weight": "norm.weight"})])
    x = torch.randn(2, 3, 32)
    with hooks.recording(2), torch.enable_grad():
        gated(x)
        with pytest.raises(ModelError, match=r"norm.weight belongs to a Gated that is called with more than one"):
            gated(x, torch.ones(1))


def test_a_model_that_is_not_told_by_its_mask_is_found_out():
    """ALiBi counts distance in columns: the second response of a shared row would be too far from its prompt."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("bloom", vocab_size=64, hidden_size=32, n_layer=2, n_head=4)
    base = AutoModelForCausalLM.from_config(config)
    kind = LoraConfig(r=2, target_modules=["query_key_value"], init_lora_weights=False, task_type="CAUSAL_LM")
    assert not extractor(get_peft_model(base, kind).eval()).can_share(*families.pairs()[0])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gradient_checkpointing_changes_nothing(family):
    plain, _ = families.build(family)
    thrifty = copy.deepcopy(plain)
    checkpoint_activations(thrifty)
    layers = [m for m in thrifty.modules() if getattr(m, "gradient_checkpointing", False) and m.training]
    assert layers, "checkpointing is not on: this test tested nothing"
    assert not any(m.training for m in thrifty.modules() if isinstance(m, torch.nn.Dropout)), "dropout came on with it"
    expected, found = (families.hooked(m, families.samples())[0] for m in (plain, thrifty))
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name
    a, b = (families.hooked_pairs(m, families.pairs()) for m in (plain, thrifty))
    assert all(torch.equal(a[k][0][n], b[k][0][n]) for k in (0, 1) for n in a[0][0])


def test_a_module_that_is_used_twice_has_the_sum_of_its_gradients():
    model, attention = families.build("llama")
    layers = model.get_base_model().model.layers
    layers[1] = layers[0]
    expected = [families.autograd(model, e) for e in families.samples()]
    found = families.hooked(model, families.samples(), "right", attention)[0]
    assert max(families.errors(expected, found).values()) <= 1e-5


def wrapped(family="llama", **adapter):
    settings, targets = families.FAMILIES[family]
    config = AutoConfig.for_model(family, vocab_size=64, **settings)
    return get_peft_model(
        AutoModelForCausalLM.from_config(config),
        LoraConfig(**({"r": 2, "target_modules": targets, "task_type": "CAUSAL_LM"} | adapter)),
    )


@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings=True`")
@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens.lora_embedding_A is not part of a linear layer"),
        ({"trainable_token_indices": [1, 2]}, "trainable tokens are not read"),
    ],
)
def test_what_has_no_per_sample_gradient_is_refused_by_name(adapter, message):
    with pytest.raises(ModelError, match=message):
        trained_sites(wrapped(**adapter))


def test_a_mixture_of_experts_is_refused_rather_than_mixed_up():
    settings = {**families.GROUPED, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
    config = AutoConfig.for_model("qwen2_moe", vocab_size=64, shared_expert_intermediate_size=16, **settings)
    kind = LoraConfig(r=2, target_modules=["shared_expert.gate_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_config(config), kind).eval().requires_grad_(False)
    with pytest.raises(ModelError, match=r"gate_proj.lora_A.weight sees \(.* for 5 samples: its tokens cannot be told"):
        families.hooked(model, families.samples())
    fused = LoraConfig(r=2, target_modules=[], target_parameters=["mlp.experts.gate_up_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_config(config), fused).eval().requires_grad_(False)
    with pytest.raises(ModelError, match="its module is not called in a forward"):
        families.hooked(model, families.samples())


@pytest.mark.parametrize(
    ("variant", "changes"), [("lora", False), ("dora", False), ("saved norm", True), ("biases", True)]
)
def test_an_adapter_that_leaves_its_mark_on_the_base_is_known(variant, changes):
    """Else the next checkpoint would be read on top of what the last one left."""
    model, _ = families.build("llama", variant)
    assert changes_base(model) == changes
    before = {
        n: p.clone() for n, p in families.build("llama")[0].get_base_model().state_dict().items() if "lora" not in n
    }
    after = model.unload().state_dict()
    same = all(torch.equal(after[n.replace(".base_layer", "")], p) for n, p in before.items())
    assert same or changes


def test_a_sum_loss_is_the_mean_times_the_tokens():
    model, _ = families.build("llama")
    batch = families.samples()
    (mean, a), (total, b) = (families.hooked(model, batch, reduction=r) for r in ("mean", "sum"))
    counts = torch.tensor([e.n_labels for e in batch])
    assert torch.allclose(a * counts, b, rtol=1e-5)
    for name in mean:
        assert torch.allclose(mean[name] * counts[:, None, None], total[name], rtol=1e-3, atol=1e-7)


def test_a_response_that_starts_like_the_other_keeps_its_own_labels():
    """Common tokens after the prompt belong to both responses, so they are not shared."""
    model, attention = families.build("llama")
    first, second = Encoded([5, 6, 7, 8, 9, 10], 4, "ok"), Encoded([5, 6, 7, 8, 9, 11, 12], 4, "ok")
    expected = [families.autograd(model, e) for e in (first, second)]
    found = families.hooked_pairs(model, [(first, second)], attention)
    for k in (0, 1):
        assert found[k][1][0].item() == pytest.approx(expected[k][1], rel=1e-5)
        assert max(families.errors([expected[k]], found[k][0]).values()) <= 1e-5
