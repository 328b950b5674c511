"""Tiny models of every family from config, adapters of every kind, and each one's error against batch-1 autograd.

python -m tests.families    prints the table of docs/performance.md
"""

import copy
import warnings

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from gradstore.models.adapters import adapter_parameters, trained_sites
from gradstore.models.encoding import Encoded
from gradstore.models.gradients import GradientHooks
from gradstore.models.losses import Forward

VOCABULARY = 64
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SMALL, "num_key_value_heads": 2}
# family → (settings, attention and MLP modules that a LoRA goes on)
FAMILIES = {
    "llama": (GROUPED, ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]),
    "mistral": ({**GROUPED, "sliding_window": 6}, ["q_proj", "v_proj", "up_proj"]),
    "qwen2": ({**GROUPED, "tie_word_embeddings": True}, ["q_proj", "k_proj", "down_proj"]),
    "qwen3": ({**GROUPED, "head_dim": 8}, ["q_proj", "o_proj", "up_proj"]),
    "gemma2": ({**GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 6}, ["q_proj", "gate_proj"]),
    "phi": (SMALL, ["q_proj", "dense", "fc1"]),
    "phi3": ({**GROUPED, "pad_token_id": 0}, ["qkv_proj", "o_proj", "gate_up_proj"]),
    "gpt2": ({"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}, ["c_attn", "c_proj", "c_fc"]),
    "gpt_neox": (SMALL, ["query_key_value", "dense_h_to_4h"]),
}
NORMS = {"gpt2": "ln_f", "phi": "final_layernorm", "gpt_neox": "final_layer_norm"}
HEADS = {"gpt_neox": "embed_out"}
VARIANTS = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "biases": {"bias": "all"},
    "lora bias": {"lora_bias": True},
    "dora": {"use_dora": True},
    "saved norm": {"modules_to_save": "norm"},
    "saved head": {"modules_to_save": "head"},
    "saved embedding": {"modules_to_save": "embedding"},
}
EMBEDDINGS = {"gpt2": "wte", "gpt_neox": "embed_in"}
TIED = ("qwen2", "gemma2", "gpt2")  # a saved head or embedding of these is a matrix of its own after peft copied it


def build(family, variant="lora", dtype=torch.float32, seed=0):
    """A random model with a random adapter of one kind, in evaluation mode."""
    settings, targets = FAMILIES[family]
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, vocab_size=VOCABULARY, max_position_embeddings=64, **settings)
    attention = "eager" if family == "gemma2" else "sdpa"  # sdpa leaves out gemma2's soft caps
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
        for name, parameter in base.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
        chosen = dict(VARIANTS[variant])
        if saved := chosen.get("modules_to_save"):
            names = {"norm": NORMS.get(family, "norm"), "head": HEADS.get(family, "lm_head")}
            names["embedding"] = EMBEDDINGS.get(family, "embed_tokens")
            chosen["modules_to_save"] = [names[saved]]
        kind = LoraConfig(
            r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", fan_in_fan_out=family == "gpt2", **chosen
        )
        model = get_peft_model(base, kind)
    generator = torch.Generator().manual_seed(7)
    for name, parameter in adapter_parameters(model).items():  # B is zero at first, which would hide half the gradient
        if "lora_A" in name or "lora_B" in name:
            parameter.data = (torch.randn(parameter.shape, generator=generator) * 0.2).to(parameter.dtype)
    return model.eval().requires_grad_(False), attention


def samples(count=5, seed=0):
    """Ragged prompts and responses."""
    draws = np.random.default_rng(seed)
    lengths = [(9, 6), (5, 3), (14, 13), (5, 1), (3, 2), (20, 4), (11, 5)][:count]
    return [Encoded(draws.integers(4, VOCABULARY - 4, n).tolist(), start, "ok") for n, start in lengths]


def pairs(count=4, seed=1):
    """Two responses to one prompt each, as they are tokenised: the prompt is a prefix of both."""
    draws = np.random.default_rng(seed)
    found = []
    for prompt, first, second in [(9, 3, 4), (12, 1, 5), (5, 2, 2), (14, 4, 1)][:count]:
        asked = draws.integers(4, VOCABULARY - 4, prompt).tolist()
        replies = [draws.integers(4, VOCABULARY - 4, n).tolist() for n in (first, second)]
        found.append(tuple(Encoded(asked + r, prompt, "ok") for r in replies))
    return found


def autograd(model, encoded):
    """Gradient of one sample at batch size 1, no padding, by plain autograd through the model's own loss."""
    model = copy.deepcopy(model)
    parameters = adapter_parameters(model)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    ids, labels = torch.tensor([encoded.ids]), torch.tensor([encoded.labels])
    loss = model(input_ids=ids, labels=labels, use_cache=False).loss
    loss.backward()
    return {n: p.grad.double() for n, p in parameters.items()}, loss.item()


def hooked(model, batch, side="right", attention="sdpa", reduction="mean", loss_scale=1.0):
    """The same from the hooks, for a whole batch: ({name: (b, …)}, losses)."""
    return _collect(model, len(batch), attention, reduction, loss_scale, lambda f: [f.losses(batch, side)])[0]


def hooked_pairs(model, pairs, attention="sdpa"):
    """First and second responses of pairs whose prompt went through the model once."""
    return _collect(model, len(pairs), attention, "mean", 1.0, lambda f: f.shared_losses(pairs))


def _collect(model, rows, attention, reduction, loss_scale, run):
    sites = trained_sites(model)
    hooks = GradientHooks(sites, loss_scale)
    head = model.get_output_embeddings()
    dense = any(s.module in set(head.modules()) for s in sites)
    forward = Forward(model, 2, torch.device("cpu"), reduction, attention, dense)
    collected = []
    with hooks.recording(rows), torch.enable_grad():
        losses = run(forward)
        for k, each in enumerate(losses):
            parts = {}
            hooks.backward(each, lambda n, r, g, parts=parts: parts.setdefault(n, []).append(g), k + 1 < len(losses))
            collected.append(({n: torch.cat(p) for n, p in parts.items()}, each.detach()))
    hooks.remove()
    assert all(p.grad is None for p in model.parameters()), "a weight's own gradient was formed"
    return collected


def errors(expected, found):
    """Error of each sample's gradient of each parameter, as a share of its norm: {name: largest}.

    A parameter that carries less than a hundredth of the sample's gradient is measured against that hundredth: there
    float32 itself is not exact (autograd's own error against float64 is as large).
    """
    worst = {}
    for i, (gradients, _) in enumerate(expected):
        whole = torch.cat([g.flatten() for g in gradients.values()]).norm()
        for name, gradient in gradients.items():
            norm = torch.maximum(gradient.norm(), whole / 100)
            error = ((found[name][i].double().reshape(gradient.shape) - gradient).norm() / norm).item()
            worst[name] = max(worst.get(name, 0.0), error)
    return worst


def overall(expected, found):
    """Relative error of each sample's whole gradient, the largest."""
    worst = 0.0
    for i, (gradients, _) in enumerate(expected):
        a = torch.cat([g.flatten() for g in gradients.values()])
        b = torch.cat([found[n][i].double().flatten() for n in gradients])
        worst = max(worst, ((a - b).norm() / a.norm()).item())
    return worst


def combinations():
    for family in FAMILIES:
        for variant in VARIANTS:
            if (family == "phi3" and variant == "saved embedding") or (variant == "saved head" and family in TIED):
                continue
            yield family, variant


def row(family, variant):
    """Errors of one combination: padding right and left, prompt once, and two half precisions padded right."""
    model, attention = build(family, variant)
    expected = [autograd(model, e) for e in samples()]
    found = {s: max(errors(expected, hooked(model, samples(), s, attention)[0]).values()) for s in ("right", "left")}
    once = hooked_pairs(model, pairs(), attention)
    apart = [[autograd(model, pair[k]) for pair in pairs()] for k in (0, 1)]
    found["prompt once"] = max(max(errors(apart[k], once[k][0]).values()) for k in (0, 1))
    for name, dtype, scale in (("bfloat16", torch.bfloat16, 1.0), ("float16", torch.float16, 1024.0)):
        half, _ = build(family, variant, dtype)
        exact = [autograd(half, e) for e in samples()]
        found[name] = overall(exact, hooked(half, samples(), "right", attention, loss_scale=scale)[0])
    return found


def main():
    print("| family | adapter | right | left | prompt once | bfloat16 | float16 |\n|---|---|---|---|---|---|---|")
    for family, variant in combinations():
        print(f"| {family} | {variant} | " + " | ".join(f"{e:.0e}" for e in row(family, variant).values()) + " |")


if __name__ == "__main__":
    main()
