"""The doctor finds sound arithmetic sound, and unsound arithmetic not."""

import json
from dataclasses import replace

import pytest
import torch

from gradstore.cli.main import cli
from gradstore.models import soundness
from gradstore.models.loading import load_model
from gradstore.models.soundness import Finding, compare
from gradstore.pipelines.doctor import doctor
from gradstore.pipelines.fresh import fresh_adapter


def test_every_way_of_a_sound_model_agrees(world):
    found = {(f["check"], f["setting"]): f for f in doctor(world.options)}
    for key in [("batching", "padded right"), ("batching", "padded left"), ("prompt sharing", "prompt once")]:
        assert found[key]["verdict"] == "sound"
        assert 0 < found[key]["error"] < 1e-4
    assert found["gradient checkpointing", "on"]["verdict"] == "sound"
    assert found["attention", "eager"]["verdict"] == "sound"
    assert found["attention", "flash_attention_2"]["verdict"] == "not offered"
    assert 1e-4 < found["precision", "bfloat16"]["error"] < 0.1
    assert found["precision", "float16"]["error"] < found["precision", "bfloat16"]["error"]


def test_padding_that_is_seen_is_noisy(world, monkeypatch):
    """Without a mask, padding on the left is read as text; on the right nothing comes after it."""

    def no_mask(sequences, side="right"):
        return torch.ones(len(sequences), max(map(len, sequences)), dtype=torch.long)

    monkeypatch.setattr("gradstore.models.losses.padding_mask", no_mask)
    found = {(f["check"], f["setting"]): f["verdict"] for f in doctor(world.options)}
    assert found["batching", "padded right"] == "sound"
    assert found["batching", "padded left"] == "noisy"


def test_a_gradient_that_is_not_a_number_is_broken():
    finding = compare("batching", "x", "y", torch.ones(2, 3), torch.full((2, 3), torch.nan), 1e-3)
    assert finding.verdict == "broken"
    assert Finding("c", "s", "a", 0.5, 0.9, 0.1).verdict == "noisy"
    assert soundness.impossible("c", "s", ValueError("no\nmore")).note == "no"


def test_the_command_prints_a_line_a_comparison(world):
    from click.testing import CliRunner

    model = world.options.model
    result = CliRunner().invoke(
        cli, ["doctor", model, "--checkpoint", str(world.folder / "warmup" / "epoch-2"), "--json"]
    )
    assert result.exit_code == 0, result.output
    findings = json.loads(result.stdout.splitlines()[-1])
    assert {f["check"] for f in findings} == {
        "batching",
        "prompt sharing",
        "gradient checkpointing",
        "attention",
        "precision",
    }


def test_4_bit_weights_are_part_of_the_recipe(world, tmp_path):
    """Through bitsandbytes' own layers: gradients flow, and the base model's identity stays."""
    pytest.importorskip("bitsandbytes", reason="4-bit weights need the extra quant")
    from gradstore.models.adapters import load_adapter
    from gradstore.models.encoding import Encoded
    from gradstore.models.extraction import Extractor, Item
    from gradstore.sketch import Sketch

    options = replace(world.options, load_in_4bit=True)
    loaded = load_model(options.model, four_bit=True)
    assert loaded.dtype == "float32/nf4"
    assert loaded.model_id == load_model(options.model).model_id
    folder = fresh_adapter(str(tmp_path / "s"), world.options, "r=4,targets=q_proj,down_proj", "sgd", tmp_path)
    items = [Item(str(n), "answer", Encoded([5 + n, 6, 7, 8, 9], 3, "ok")) for n in range(3)]
    adapted = load_adapter(loaded.model, folder)
    assert type(loaded.model.model.layers[0].self_attn.q_proj.base_layer).__name__ == "Linear4bit"
    together = Extractor(loaded, adapted, None, "sgd", Sketch(dim=64)).rows(items)
    assert together["status"].to_pylist() == ["ok"] * 3
    exact = load_model(options.model)
    other = Extractor(exact, load_adapter(exact.model, folder), None, "sgd", Sketch(dim=64)).rows(items)
    assert together["loss"].to_pylist() == pytest.approx(other["loss"].to_pylist(), rel=0.2)
    assert together["loss"].to_pylist() != other["loss"].to_pylist(), "the weights were not quantised"
