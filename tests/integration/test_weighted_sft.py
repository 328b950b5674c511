"""The weighted trainer has the losses it states, whatever the batch, the accumulation and the processes."""

import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="install the extra trl")
pytest.importorskip("trl", reason="install the extra trl")

from datasets import Dataset, IterableDataset  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402

from gradstore.export import Example, write_trl  # noqa: E402
from gradstore.models import weighted_sft  # noqa: E402
from gradstore.models.weighted_sft import LOSSES, WeightedSFTTrainer  # noqa: E402

# TRL 1.16 and PEFT 0.21 use names of gradient checkpointing that transformers 5.23 has changed.
pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing` is deprecated:FutureWarning")

WORDS = [f"w{i}" for i in range(90)]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "user", "assistant"]
CHAT = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)
RATE = 1.0
DESCENT = {  # plain gradient descent, so that a step shows its gradient
    "optim": "sgd",
    "learning_rate": RATE,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "num_train_epochs": 1,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(SPECIAL + WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, chat_template=CHAT, **names)


def tiny_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(SPECIAL + WORDS), **shape, **ids)).float()


def make_rows(count: int = 10, weight: float | None = None) -> list[dict]:
    """Rows with prompts of 3 to 5 words, completions of 1 to 9, and weights of 0 to 2 (or all ``weight``)."""
    draw = torch.Generator().manual_seed(1)

    def words(n: int) -> str:
        return " ".join(WORDS[i] for i in torch.randint(len(WORDS), (n,), generator=draw))

    return [
        {
            "prompt": words(3 + i % 3),
            "completion": " " + words(1 + 4 * i % 9),
            "weight": i % 5 / 2 if weight is None else weight,
        }
        for i in range(count)
    ]


def config(folder: Path, **settings: object) -> SFTConfig:
    return SFTConfig(output_dir=str(folder), **{**DESCENT, **settings})


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1).double() for p in model.parameters()])


@pytest.fixture
def train(tokenizer, tmp_path):
    """Train the tiny model; return its move over -RATE (the gradient, after one step) and the loss."""

    def run(rows: list[dict], cls: type = WeightedSFTTrainer, batch: int = 10, steps: int = 1, **given):
        model, before = tiny_model(), flat(tiny_model())
        own = {"loss": given.pop("loss", "sample")} if cls is WeightedSFTTrainer else {}
        settings = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps, **given}
        trainer = cls(
            model,
            config(tmp_path, **settings),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            **own,
        )
        loss = trainer.train().training_loss
        return (before - flat(model)) / RATE, loss

    return run


def losses_in_double(tokenizer, rows: list[dict]) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    """The token losses of each row, one row at a time and one token at a time, in float64."""
    model, losses = tiny_model().double(), []
    for row in rows:
        prompt, completion = (tokenizer(t)["input_ids"] for t in (row["prompt"], row["completion"] + "</s>"))
        logs = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
        first = len(prompt)
        losses.append(torch.stack([-logs[first + j - 1, t] for j, t in enumerate(completion)]))
    return model, losses


def stated_loss(losses: list[torch.Tensor], weights: list[float], loss: str) -> torch.Tensor:
    if loss == "sample":
        return sum(w * t.mean() for w, t in zip(weights, losses, strict=True)) / len(losses)
    return sum(w * t.sum() for w, t in zip(weights, losses, strict=True)) / sum(len(t) for t in losses)


def assert_same(found: torch.Tensor, expected: torch.Tensor, message: str) -> None:
    error = ((found - expected).norm() / expected.norm()).item()
    assert error < 1e-4, f"{message}: relative error {error:.2g}, ratio {(found.norm() / expected.norm()):.4f}"


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradient_are_those_of_the_stated_formula(loss, train, tokenizer):
    rows = make_rows()
    model, losses = losses_in_double(tokenizer, rows)
    expected = stated_loss(losses, [r["weight"] for r in rows], loss)
    expected.backward()
    gradient, value = train(rows, loss=loss)
    assert value == pytest.approx(expected.item(), rel=1e-5)
    assert_same(gradient, torch.cat([p.grad.reshape(-1) for p in model.parameters()]), "gradient of the formula")


def test_token_loss_at_weight_one_is_trls_own(train):
    rows = make_rows(weight=1.0)
    plain = [{k: r[k] for k in ("prompt", "completion")} for r in rows]
    moved, value = train(rows, loss="token", batch=2, steps=4)
    trl_moved, trl_value = train(plain, cls=SFTTrainer, batch=2, steps=4)
    assert value == pytest.approx(trl_value, rel=1e-5)
    assert_same(moved, trl_moved, "two steps, the second of 2 rows")


@pytest.mark.parametrize("loss", LOSSES)
def test_accumulation_and_batch_size_change_nothing(loss, train):
    """8 rows a step in three ways, then a step of 2; a ratio of 1/4 or 4 is a count taken twice."""
    expected, value = train(make_rows(), loss=loss, batch=8, steps=1)
    for batch, steps in ((2, 4), (1, 8)):
        moved, same = train(make_rows(), loss=loss, batch=batch, steps=steps)
        assert_same(moved, expected, f"{loss}, {steps} micro-batches of {batch}")
        assert same == pytest.approx(value, rel=1e-5)


def test_padding_changes_nothing(train):
    assert_same(train(make_rows(), pad_to_multiple_of=32)[0], train(make_rows())[0], "padded to 32")


def test_weights_of_zero_leave_the_model_as_it_was(train):
    moved, value = train(make_rows(weight=0.0), batch=2, steps=5)
    assert value == 0
    assert not moved.any()


def test_weights_scale_and_are_not_normalised_away(train):
    assert_same(train(make_rows(weight=2.0))[0], 2 * train(make_rows(weight=1.0))[0], "weight 2 against 1")


def test_a_sample_without_labels_counts_with_loss_zero(train):
    rows = [{"input_ids": [5, 6, 7, 8 + i], "labels": [-100, -100, 7, 8 + i], "weight": 1.0} for i in range(3)]
    empty = {"input_ids": [5, 6, 7], "labels": [-100] * 3, "weight": 1.0}
    alone, _ = train(rows, max_length=None)
    for batch, steps in ((4, 1), (1, 4)):
        moved, _ = train([*rows, empty], batch=batch, steps=steps, max_length=None)
        assert_same(moved, alone * 3 / 4, f"{steps} micro-batches of {batch}")


ROWS = st.lists(  # tokens of the prompt and of the completion, and the weight
    st.tuples(st.integers(1, 6), st.integers(0, 9), st.one_of(st.just(0.0), st.floats(0.01, 3.0))),
    min_size=1,
    max_size=8,
)


@pytest.fixture(scope="module")
def trainers(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps")
    return {loss: build(tokenizer, folder, loss=loss) for loss in LOSSES}


def tokenised(shapes: list[tuple[int, int, float]], seed: int) -> list[dict]:
    draw, rows = torch.Generator().manual_seed(seed), []
    for prompt, completion, weight in shapes:
        ids = torch.randint(len(SPECIAL), len(SPECIAL + WORDS), (prompt + completion,), generator=draw).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:], "weight": weight})
    return rows


def step_gradient(trainer: WeightedSFTTrainer, rows: list[dict], sizes: list[int], multiple: int | None = None):
    """The gradient of one optimiser step whose micro-batches have these sizes, as Trainer accumulates it."""
    trainer.data_collator.base.pad_to_multiple_of = multiple
    trainer.current_gradient_accumulation_steps = len(sizes)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    batches = iter([trainer.data_collator(rows[a : a + n]) for a, n in zip(starts, sizes, strict=True)])
    trainer.model.zero_grad()
    batches, items = trainer.get_batch_samples(batches, len(sizes), trainer.args.device)
    for batch in batches:
        trainer.training_step(trainer.model, batch, items)
    return torch.cat([p.grad.reshape(-1).double() for p in trainer.model.parameters()])


def formula_gradient(rows: list[dict], loss: str) -> torch.Tensor:
    """The gradient of the stated formula, in float64, one row at a time."""
    model = tiny_model().double()
    totals, tokens = [], 0
    for row in rows:
        ids, first = torch.tensor(row["input_ids"]), row["labels"].count(-100)
        logs = model(ids[None]).logits[0, :-1].log_softmax(-1)
        of_tokens = -logs[torch.arange(first - 1, len(ids) - 1), ids[first:]]
        tokens += len(of_tokens)
        totals.append(row["weight"] * of_tokens.sum() / (max(len(of_tokens), 1) if loss == "sample" else 1))
    (sum(totals) / (len(rows) if loss == "sample" else max(tokens, 1))).backward()
    return torch.cat([p.grad.reshape(-1) for p in model.parameters()])


def assert_close(found: torch.Tensor, expected: torch.Tensor, message: str) -> None:
    if expected.any():
        assert_same(found, expected, message)
    assert found.any() == expected.any(), message


@pytest.mark.parametrize("loss", LOSSES)
@settings(max_examples=60, deadline=None)
@given(shapes=ROWS, cuts=st.integers(0, 127), multiple=st.sampled_from([None, 7, 16]), seed=st.integers(0, 99))
def test_any_micro_batches_give_the_gradient_of_the_formula(loss, trainers, shapes, cuts, multiple, seed):
    """Rows of any length and weight, split anywhere (uneven too), padded to anything, in any order.

    Rows without label tokens count in "sample" and not in "token".
    """
    rows = tokenised(shapes, seed)
    ends = [i + 1 for i in range(len(rows) - 1) if cuts >> i & 1] + [len(rows)]
    sizes = [b - a for a, b in zip([0, *ends], ends, strict=False)]
    expected = formula_gradient(rows, loss)
    assert_close(step_gradient(trainers[loss], rows, sizes, multiple), expected, f"{sizes}, padded to {multiple}")
    back = step_gradient(trainers[loss], rows[::-1], sizes, multiple)
    assert_close(back, expected, f"{sizes}, the rows in reverse")


@pytest.mark.parametrize("loss", LOSSES)
@settings(max_examples=30, deadline=None)
@given(shapes=ROWS, times=st.lists(st.integers(0, 3), min_size=8, max_size=8), seed=st.integers(0, 99))
def test_a_weight_of_k_is_k_copies(loss, trainers, shapes, times, seed):
    """Up to the count that each divides by: what examples/xtuner/replicate.py stands on."""
    rows = [{**row, "weight": float(k)} for row, k in zip(tokenised(shapes, seed), times, strict=False)]
    copies = [{**row, "weight": 1.0} for row, k in zip(rows, times, strict=False) for _ in range(k)]
    if not copies:
        return
    trainer = trainers[loss]
    counts = [int(trainer._items(trainer.data_collator(some)["labels"])) for some in (rows, copies)]
    weighted = step_gradient(trainer, rows, [len(rows)])
    assert_close(weighted * counts[0], step_gradient(trainer, copies, [len(copies)]) * counts[1], "weights and copies")


@settings(max_examples=30, deadline=None)
@given(shapes=ROWS, seed=st.integers(0, 99), other=st.integers(100, 199))
def test_what_a_row_of_weight_zero_says_does_not_matter(trainers, shapes, seed, other):
    """Its tokens and its length, and so the padding of its batch, change nothing; it counts as one sample."""
    rows, long = tokenised(shapes, seed), [(6, 30, 0.0)]
    alone = step_gradient(trainers["sample"], rows, [len(rows)])
    beside = [*rows, *tokenised(long, other)]
    joined = step_gradient(trainers["sample"], beside, [len(beside)]) * len(beside) / len(rows)
    assert_close(joined, alone, "a long row of weight 0 in the batch")


def test_the_weight_survives_remove_unused_columns(tokenizer, tmp_path):
    rows = [{**r, "group": "known"} for r in make_rows()]
    trainer = build(tokenizer, tmp_path, rows, remove_unused_columns=True, per_device_train_batch_size=10)
    batch = next(iter(trainer.get_train_dataloader()))
    assert sorted(batch["weight"].tolist()) == sorted(r["weight"] for r in rows)
    assert set(batch) == {"input_ids", "attention_mask", "labels", "weight"}


@pytest.mark.parametrize("loss", LOSSES)
def test_evaluation_uses_weights_where_there_are_some(loss, tokenizer, tmp_path):
    rows = make_rows()
    plain = [{k: r[k] for k in ("prompt", "completion")} for r in rows]
    _, losses = losses_in_double(tokenizer, rows)
    trainer = WeightedSFTTrainer(
        tiny_model(),
        config(tmp_path, per_device_eval_batch_size=10),
        train_dataset=Dataset.from_list(rows),
        eval_dataset={"weighted": Dataset.from_list(rows), "plain": Dataset.from_list(plain)},
        processing_class=tokenizer,
        loss=loss,
    )
    found = trainer.evaluate()
    weighted = stated_loss(losses, [r["weight"] for r in rows], loss).item()
    assert found["eval_weighted_loss"] == pytest.approx(weighted, rel=1e-5)
    assert found["eval_plain_loss"] == pytest.approx(stated_loss(losses, [1.0] * 10, loss).item(), rel=1e-5)


PROCESSES = """
import json, torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig
from weighted_sft import WeightedSFTTrainer

given = json.load(open("given.json"))
for name, (loss, config) in given["runs"].items():
    trainer = WeightedSFTTrainer(
        AutoModelForCausalLM.from_pretrained("model"),
        SFTConfig(output_dir="out", **config),
        train_dataset=Dataset.from_list(given["rows"]),
        processing_class=AutoTokenizer.from_pretrained("model"),
        loss=loss,
    )
    trainer.train()
    value = trainer.state.log_history[0]["loss"]
    assert trainer.args.world_size == 2
    if trainer.is_world_process_zero():
        trained = trainer.accelerator.unwrap_model(trainer.model)
        torch.save({"model": trained.state_dict(), "loss": value}, name + ".pt")
torch.distributed.destroy_process_group()
"""


def launch(folder: Path, processes: int) -> None:
    """Start run.py as torchrun does, without the seconds torchrun itself takes to start."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    started = []
    for rank in range(processes):
        own = {**shared, "RANK": rank, "LOCAL_RANK": rank, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": 1}
        env = {**os.environ, **{name: str(value) for name, value in own.items()}}
        with (folder / f"{rank}.txt").open("w") as out:
            command = [sys.executable, "run.py"]
            started.append(subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=out))
    try:
        codes = [process.wait(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    assert codes == [0] * processes, "".join((folder / f"{r}.txt").read_text()[-3000:] for r in range(processes))


def test_two_processes_are_one(train, tokenizer, tmp_path):
    """Trained by a copy of the file, so that it is also shown to need nothing beside it.

    A ratio of 1/2 or 2 means that the mean DistributedDataParallel takes was left out, or taken twice.
    """
    rows = make_rows(8)
    runs = {
        f"{loss}-{average}": (
            loss,
            {
                **DESCENT,
                "logging_steps": 1,
                "average_tokens_across_devices": average,
                "per_device_train_batch_size": 2,
                "gradient_accumulation_steps": 2,
            },
        )
        for loss in LOSSES
        for average in (True, False)
    }
    tiny_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    shutil.copy(weighted_sft.__file__, tmp_path / "weighted_sft.py")
    (tmp_path / "given.json").write_text(json.dumps({"rows": rows, "runs": runs}))
    (tmp_path / "run.py").write_text(PROCESSES)
    launch(tmp_path, processes=2)
    expected = {loss: train(rows, loss=loss, batch=8) for loss in LOSSES}
    for name, (loss, _) in runs.items():
        found, model = torch.load(tmp_path / f"{name}.pt"), tiny_model()
        model.load_state_dict(found["model"])
        assert_same((flat(tiny_model()) - flat(model)) / RATE, expected[loss][0], f"{name}, two processes")
        assert found["loss"] == pytest.approx(expected[loss][1], rel=1e-5)


def test_the_command_trains_an_adapter_on_exported_chats(tokenizer, tmp_path):
    """The question holds U+2028, at which str.splitlines would break a row of JSON in two."""
    tiny_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    examples = [
        Example(
            sample_id=str(i),
            group="known" if i % 2 else "unknown",
            prompt=[{"role": "user", "content": r["prompt"] + "\u2028w1"}],
            completion=[{"role": "assistant", "content": r["completion"].strip()}],
            weight=r["weight"],
        )
        for i, r in enumerate(make_rows(6))
    ]
    data = write_trl(examples, tmp_path / "export", {})[0]
    places = ["--model", str(tmp_path / "model"), "--data", str(data), "--out", str(tmp_path / "adapter")]
    weighted_sft.main([*places, "--epochs", "1", "--batch-size", "2", "--accumulation", "3", "--lora-r", "4"])
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    moved = [t.abs().max().item() > 0 for name, t in adapter.items() if "lora_B" in name]
    assert len(moved) == 2 * 7, "one adapter for each linear layer but the head"
    assert all(moved)


def build(tokenizer, folder: Path, rows: list[dict] | None = None, loss: str = "sample", **settings: object):
    data = Dataset.from_list(make_rows() if rows is None else rows)
    return WeightedSFTTrainer(
        tiny_model(), config(folder, **settings), train_dataset=data, processing_class=tokenizer, loss=loss
    )


@pytest.mark.parametrize(
    ("setting", "way_out"),
    [
        ({"packing": True}, "Set packing=False"),
        ({"eval_packing": True}, "Set eval_packing=False"),
        ({"padding_free": True}, "Set padding_free=False"),
        ({"use_liger_kernel": True}, "Set use_liger_kernel=False"),
        ({"label_smoothing_factor": 0.1}, "Set label_smoothing_factor=0.0"),
        ({"loss_type": "dft"}, "Set loss_type='nll'"),
    ],
)
def test_settings_that_lose_weights_are_refused(setting, way_out, tokenizer, tmp_path):
    (name, value) = next(iter(setting.items()))
    with pytest.raises(ValueError, match=f"^{name}={value!r}: .* weights would be lost. {re.escape(way_out)}"):
        build(tokenizer, tmp_path, **setting)


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf, None])
def test_bad_weights_are_refused(weight, tokenizer, tmp_path):
    rows = make_rows()
    rows[3]["weight"] = weight
    with pytest.raises(ValueError, match=f"1 of 10 weights are not finite numbers >= 0, the first is {weight!r}"):
        build(tokenizer, tmp_path, rows)


def test_data_without_weights_is_refused_and_its_columns_named(tokenizer, tmp_path):
    rows = [{"prompt": "w1", "completion": " w2"}]
    with pytest.raises(ValueError, match=r"no column 'weight', only \['prompt', 'completion'\]"):
        build(tokenizer, tmp_path, rows)


def test_a_stream_and_an_unknown_loss_are_refused(tokenizer, tmp_path):
    stream = IterableDataset.from_generator(lambda: iter(make_rows()))
    with pytest.raises(ValueError, match=r"is of type IterableDataset: .* loaded without streaming"):
        WeightedSFTTrainer(tiny_model(), config(tmp_path), train_dataset=stream, processing_class=tokenizer)
    with pytest.raises(ValueError, match=r"loss='mean' is not known. Choose one of sample, token"):
        build(tokenizer, tmp_path, loss="mean")
    with pytest.raises(ValueError, match="compute_loss_func sees no weights"):
        WeightedSFTTrainer(tiny_model(), config(tmp_path), compute_loss_func=lambda *_: 0)
