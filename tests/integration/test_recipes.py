"""The recipes of examples/: the papers' settings as read, training with them, and weights as whole copies."""

import importlib.util
import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def example(name: str):
    """A script of examples/ as a module."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, EXAMPLES / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipes, copying = example("trl_sft.py"), example("xtuner/replicate.py")

# What the sources say; global_batch is batch x accumulation x GPUs.
QLORA = {"tuning": "qlora", "lora_r": 64, "lora_alpha": 16, "lora_dropout": 0.1, "targets": "all-linear"}
ALL = {"weight_decay": 0.0, "max_grad_norm": 1.0, "batch_size": 1, "packing": False, "train_on_prompt": False}
PUBLISHED = {
    # opendatalab/CRaFT@c05c50e, train/mmlu/llama3_8b_instruct_LoRA_CRaFT_mmlu_test_Idk1000_van4000__REFUSE1.py, and
    # scripts/stage2/MCQA/mmlu_CRaFT.sh: NPROC_PER_NODE=4
    "craft-mcqa": QLORA
    | {"lr": 2e-4, "epochs": 3, "schedule": "cosine", "warmup_ratio": 0.03, "precision": "fp16", "max_length": 2048}
    | {"global_batch": 1 * 16 * 4},
    # ... train/triviaqa/llama3_8b_instruct_full_CRaFT_triviaqa_train_Idk2000_van8000__REFUSE1.py
    "craft-oeqa": {"tuning": "full", "lr": 8e-6, "epochs": 3, "schedule": "cosine", "warmup_ratio": 0.03}
    | {"precision": "fp16", "max_length": 2048, "global_batch": 1 * 16 * 4},
    # opendatalab/GRAIT@2be8d64, train/mmlu/llama3-8b/grait.py (no LinearLR, shuffle=False) and SFT.sh
    "grait": QLORA
    | {"lr": 2e-4, "epochs": 3, "schedule": "cosine", "warmup_ratio": 0.0, "precision": "fp16", "max_length": 2048}
    | {"global_batch": 1 * 16 * 4, "order": "sequential", "loss": "sample"},
    # princeton-nlp/LESS@8abf962, less/scripts/train/base_training_args.sh
    "less": {"tuning": "lora", "lora_r": 128, "lora_alpha": 512, "lora_dropout": 0.1}
    | {"targets": "q_proj,k_proj,v_proj,o_proj", "lr": 2e-5, "epochs": 4, "schedule": "linear", "warmup_ratio": 0.03}
    | {"precision": "bf16", "max_length": 2048, "global_batch": 1 * 32 * 1, "save": "epoch"},
    # OptimalScale/LMFlow v0.0.5, scripts/run_finetune.sh, which R-Tuning's README runs; text_only: loss on all tokens
    "r-tuning": {"tuning": "full", "lr": 2e-5, "schedule": "linear", "warmup_ratio": 0.0, "precision": "fp16"}
    | {"max_length": 512, "train_on_prompt": True, "not_stated": ["epochs", "global_batch"]},
}


def dry(capsys, *arguments: str) -> dict:
    assert recipes.main([*arguments, "--dry-run"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments: str) -> str:
    """The one line with which the script ends."""
    assert recipes.main(list(arguments)) == 1
    printed = capsys.readouterr().err
    assert len(printed.strip().splitlines()) == 1, printed
    return printed


@pytest.mark.parametrize("preset", PUBLISHED)
def test_a_preset_is_what_its_source_says(preset, capsys, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    found = dry(capsys, "--preset", preset)
    wanted = ALL | PUBLISHED[preset]
    assert {name: found[name] for name in wanted} == wanted
    assert found["source"]
    assert PUBLISHED.keys() == recipes.PRESETS.keys()


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_step_has_the_papers_samples_on_any_number_of_processes(processes, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    found = dry(capsys, "--preset", "grait", "--batch-size", "4")
    assert found["accumulation"] == 64 // 4 // processes
    assert found["global_batch"] == 64
    assert dry(capsys, "--preset", "grait", "--accumulation", "2")["global_batch"] == 2 * processes


OTHER = {"tuning": "lora", "schedule": "constant", "precision": "fp32", "loss": "token", "order": "random"}


@pytest.mark.parametrize("name", recipes.DEFAULTS)
def test_every_setting_has_a_flag(name, capsys):
    default = {**recipes.DEFAULTS, **recipes.PRESETS["grait"]}[name]
    flag = "--" + name.replace("_", "-")
    if isinstance(default, bool):
        assert dry(capsys, "--preset", "grait", flag)[name] is True
        return
    other = {"targets": "q_proj", "save": "epoch", "lora_dropout": "0.5", "warmup_ratio": "0.5", **OTHER}.get(name, "2")
    found = dry(capsys, "--preset", "grait", flag, other)[name]
    assert found == type(default)(other) != default


def write_data(folder: Path, chat: bool = False) -> Path:
    from gradstore.export import Example, write_trl

    examples = []
    for i in range(6):
        prompt, completion = f"Question: {i}?\nAnswer:", f" person {i}" if i % 2 else " I don't know."
        if chat:
            prompt = [{"role": "user", "content": prompt}]
            completion = [{"role": "assistant", "content": completion.strip()}]
        examples.append(Example(str(i), "known" if i % 2 else "unknown", prompt, completion, i / 2))
    return write_trl(examples, folder / "out", {})[0]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A model without a chat template that knows nothing."""
    pytest.importorskip("trl", reason="the recipe trains with TRL: install the extra trl")
    from gradstore.models.pretraining import bpe_tokenizer, small_llama

    folder = tmp_path_factory.mktemp("tiny") / "model"
    tokenizer = bpe_tokenizer(["Question: 0123456789? Answer: person I don't know."] * 3, 300)
    small_llama(tokenizer, width=16, layers=1, heads=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_what_cannot_be_trained_is_said_in_one_line(tiny, tmp_path, capsys):
    text, chat = write_data(tmp_path / "text"), write_data(tmp_path / "chat", chat=True)
    base = ["--preset", "grait", "--precision", "fp32", "--model", str(tiny), "--out", str(tmp_path / "adapter")]
    found = refused(capsys, *base, "--data", str(text), "--packing")
    assert "packing=True: several samples share one row, which has no one weight" in found
    assert "prompts are chat messages, but" in refused(capsys, *base, "--data", str(chat))
    assert "train.jsonl of an export" in refused(capsys, *base, "--data", str(tmp_path / "none.jsonl"))
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    assert "line 1 lacks one of completion, prompt, weight" in refused(
        capsys, *base, "--data", str(tmp_path / "bad.jsonl")
    )
    assert "--data missing" in refused(capsys, *base)
    assert "64 samples a step cannot be made of micro-batches of 3" in refused(capsys, *base, "--batch-size", "3")
    assert "lora_r=0, warmup_ratio=1.0: " in refused(capsys, *base, "--lora-r", "0", "--warmup-ratio", "1")
    assert not (tmp_path / "adapter").exists()


def test_half_precision_without_a_gpu_is_refused(tiny, tmp_path, capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("half precision is refused on machines without a GPU only")
    data = str(write_data(tmp_path))
    found = refused(capsys, "--preset", "grait", "--model", str(tiny), "--data", data, "--out", str(tmp_path / "a"))
    assert "pass --precision fp32, or bf16" in found


def run_script(*arguments: object) -> subprocess.CompletedProcess:
    """Run a copy's command as a user does: in a process of its own, on the CPU, without gradstore to import."""
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    block = "import sys, runpy; sys.modules['gradstore'] = None; sys.argv = sys.argv[1:]; "
    command = [sys.executable, "-W", "ignore", "-c", block + "runpy.run_path(sys.argv[0], run_name='__main__')"]
    return subprocess.run([*command, *map(str, arguments)], env=env, capture_output=True, text=True, check=False)


def test_an_export_is_trained_with_a_papers_settings(world, tmp_path):
    """LESS's LoRA, by the trainer in the export; the adapter has its shape, and moves the model to the targets."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from gradstore.cli.main import cli

    asked = ["--method", "grait", "--known", "6", "--unknown", "6", "--name", "recipe"]
    cli(["select", world.store_uri, *asked], standalone_mode=False)
    cli(["export", world.store_uri, "recipe", "--to", "trl", "--out", str(tmp_path / "out")], standalone_mode=False)
    data, out = tmp_path / "out" / "trl" / "train.jsonl", tmp_path / "adapter"
    model = world.options.model
    changed = ["--precision", "fp32", "--lr", "1e-3", "--global-batch", "4", "--epochs", "2", "--lora-dropout", "0"]
    done = run_script(
        EXAMPLES / "trl_sft.py", "--preset", "less", "--model", model, "--data", data, "--out", out, *changed
    )
    assert done.returncode == 0, done.stderr[-3000:]
    saved = json.loads((out / "adapter_config.json").read_text())
    assert (saved["r"], saved["lora_alpha"], saved["lora_dropout"]) == (128, 512, 0.0)
    assert {t.split(".")[-1] for t in saved["target_modules"]} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    kept = json.loads((out / "recipe.json").read_text())
    assert (kept["preset"], kept["lr"], kept["global_batch"], kept["warmup_ratio"]) == ("less", 1e-3, 4, 0.03)
    assert sorted(p.name for p in out.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-6"], "one an epoch"

    base, tokenizer = AutoModelForCausalLM.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    texts = [tokenizer(row["prompt"] + row["completion"], return_tensors="pt")["input_ids"] for row in rows]

    def weighted_loss(of):
        with torch.no_grad():
            return sum(
                r["weight"] * of(input_ids=ids, labels=ids).loss.item() for r, ids in zip(rows, texts, strict=True)
            )

    before = weighted_loss(base)
    assert weighted_loss(PeftModel.from_pretrained(base, out).eval()) < before, "the adapter is not better at its data"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tuning", ["qlora", "full"])
def test_four_bits_and_all_parameters_train_on_a_cpu_too(tuning, tiny, tmp_path, capsys):
    pytest.importorskip("bitsandbytes", reason="four bits need it: install the extra quant")
    from safetensors.torch import load_file

    from gradstore.models.loading import load_model

    out, small = tmp_path / "out", ["--global-batch", "3", "--epochs", "1", "--precision", "fp32", "--lr", "1e-3"]
    places = ["--model", str(tiny), "--data", str(write_data(tmp_path)), "--out", str(out)]
    assert recipes.main(["--preset", "grait", "--tuning", tuning, *small, *places]) == 0
    if tuning == "full":
        before, after = load_file(tiny / "model.safetensors"), load_file(out / "model.safetensors")
        assert all((before[name] != after[name]).any() for name in before if "proj" in name)
        assert load_model(str(out))
        return
    adapter = load_file(out / "adapter_model.safetensors")
    assert {str(t.dtype) for t in adapter.values()} == {"torch.float32"}, "TRL makes them bfloat16"
    assert all(t.abs().max() > 0 for name, t in adapter.items() if "lora_B" in name)


WEIGHTS = st.lists(st.one_of(st.just(0.0), st.floats(0.0, 20.0)), min_size=1, max_size=40).filter(any)


def copied(weights, copies, method, seed=0):
    """The copies, before no copies at all is an error."""
    if method == "largest":
        return copying.largest_remainder(weights, copies)
    return copying.stochastic(weights, copies, seed)


@given(weights=WEIGHTS, copies=st.integers(1, 50), method=st.sampled_from(copying.METHODS), seed=st.integers(0, 99))
def test_copies_keep_the_total_and_stay_within_one_of_the_weight(weights, copies, method, seed):
    made = copied(weights, copies, method, seed)
    wanted = [Fraction(w) * copies for w in weights]
    if method == "largest":
        assert sum(made) == round(sum(wanted))
    assert abs(sum(made) - sum(wanted)) < 1
    assert all(abs(n - t) < 1 for n, t in zip(made, wanted, strict=True)), "a row is off by a whole copy"
    assert all(n == 0 for n, w in zip(made, weights, strict=True) if w == 0), "a row of weight 0 was copied"
    assert made == copied(weights, copies, method, seed), "the same seed gave other copies"


@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=40).filter(any),
    copies=st.sampled_from([1, 2, 4, 8]),
    method=st.sampled_from(copying.METHODS),
    seed=st.integers(0, 99),
)
def test_weights_that_are_whole_at_the_resolution_come_out_exactly(counts, copies, method, seed):
    made = copying.replicate([n / copies for n in counts], copies, method, seed)
    assert made == counts
    found = copying.distance([n / copies for n in counts], made)
    assert found["total_variation"] == pytest.approx(0, abs=1e-12)
    assert found["ess_of_copies"] == pytest.approx(found["ess_of_weights"])


@given(weights=WEIGHTS, copies=st.integers(1, 9))
def test_largest_remainder_is_the_nearest_there_is(weights, copies):
    """Moving a copy from one row to another never comes nearer to the weights."""
    made, wanted = copied(weights, copies, "largest"), [Fraction(w) * copies for w in weights]
    gaps = [n - t for n, t in zip(made, wanted, strict=True)]  # a move changes |gap| by at most 1 on each side
    gains = [abs(g) - abs(g - 1) for g, n in zip(gaps, made, strict=True) if n > 0]
    losses = [abs(g + 1) - abs(g) for g in gaps]
    assert not gains or max(gains) <= min(losses)


def test_stochastic_copies_are_right_on_average():
    weights = [0.1, 1.7, 0.0, 0.45, 2.75]
    runs = [copying.stochastic(weights, 2, seed) for seed in range(4000)]
    for i, weight in enumerate(weights):
        mean = sum(run[i] for run in runs) / len(runs)
        assert mean == pytest.approx(2 * weight, abs=0.03), "3 standard errors are 0.024"


def test_copies_of_an_export_are_written_without_weights(tmp_path, capsys):
    from gradstore.export import Example, write_xtuner

    weights = [0.0, 1.0, 2.0, 0.5, 1.5, 1.0]
    examples = [Example(str(i), "known", f"Question {i}", f" answer {i}", w) for i, w in enumerate(weights)]
    data = write_xtuner(examples, tmp_path / "out", {})[0]
    out = tmp_path / "replicated.json"
    assert copying.main([str(data), str(out), "--copies", "2"]) == 0
    printed = json.loads(capsys.readouterr().out)
    rows, plain = json.loads(out.read_text()), json.loads((data.parent / "plain.json").read_text())
    assert [sum(r["sample_id"] == str(i) for r in rows) for i in range(6)] == [2 * w for w in weights]
    assert all(row in plain for row in rows), "a copy differs from the row without its weight"
    assert (printed["rows"], printed["copies"], printed["total_variation"]) == (6, 12, 0.0)
    assert copying.main([str(data.parent / "plain.json"), str(out)]) == 1
    assert "pass grait.json of an export to xtuner, not plain.json" in capsys.readouterr().err
    with pytest.raises(copying.ReplicateError, match="--copies 1 is too coarse: no row gets a copy"):
        copying.replicate([0.1, 0.2], 1)
    assert copying.main([str(data), str(out), "--copies", "0"]) == 1
    assert "--copies 0: expected a whole number of 1 or more" in capsys.readouterr().err
