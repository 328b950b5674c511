"""A checkpoint of a real Hugging Face Trainer: optimizer.pt by index becomes moments by name."""

import shutil

import pytest
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from gradstore.errors import CheckpointError
from gradstore.models.adapters import adapter_parameters, add_lora
from gradstore.models.checkpoints import read_checkpoint
from gradstore.models.loading import load_model
from gradstore.models.trainer_state import read_trainer_checkpoint
from gradstore.pipelines.build import default_extract
from gradstore.pipelines.extract import extract
from gradstore.pipelines.ingest import ingest
from gradstore.pipelines.probe import ProbeSettings, probe
from gradstore.pipelines.warmup import register
from gradstore.store import GradientStore


class Rows(Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, i):
        ids = torch.arange(4, 12) + i % 5
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


@pytest.fixture(scope="module")
def trained(model_folder, tmp_path_factory):
    """(checkpoint folder, the trainer's own moments by name) after two epochs of Trainer on a LoRA."""
    out = tmp_path_factory.mktemp("trainer")
    loaded = load_model(model_folder / "model")
    model = add_lora(loaded.model, r=4, alpha=8, targets="q_proj,down_proj,gate_proj", seed=0)
    for parameter in adapter_parameters(model).values():
        parameter.requires_grad_(True)
    arguments = TrainingArguments(
        output_dir=str(out),
        num_train_epochs=2,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        weight_decay=0.1,
        adam_beta2=0.98,
        logging_steps=1,
        save_strategy="epoch",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=Rows())
    trainer.train()
    state = trainer.optimizer.state
    while hasattr(trainer.optimizer, "optimizer"):
        state = trainer.optimizer.optimizer.state
        break
    moments = {
        n: (state[p]["exp_avg"].clone(), state[p]["exp_avg_sq"].clone()) for n, p in adapter_parameters(model).items()
    }
    return out / "checkpoint-8", moments


@pytest.fixture
def checkpoint(trained, tmp_path):
    folder = tmp_path / "checkpoint-8"
    shutil.copytree(trained[0], folder)
    return folder


@pytest.fixture
def store(model_folder, world, tmp_path):
    ingest(tmp_path / "store", [model_folder / "train.jsonl"], preset="qa", limit=5)
    opened = GradientStore.open(tmp_path / "store")
    probe(opened, world.options, ProbeSettings(max_new_tokens=4, n_samples=2))
    return opened


def test_moments_get_their_own_names(store, world, trained, checkpoint):
    identity = register(store, checkpoint, world.options)
    found = read_checkpoint(checkpoint)
    assert found.checkpoint_id == identity
    assert found.moments.by_name.keys() == trained[1].keys()
    for name, (m, v) in trained[1].items():
        assert torch.equal(found.moments.by_name[name][0], m), f"{name} got another parameter's first moment"
        assert torch.equal(found.moments.by_name[name][1], v), f"{name} got another parameter's second moment"
    record = found.record
    assert (record.step, record.epoch, record.beta2) == (8, 2, 0.98)
    assert 0 < record.learning_rate < 1e-3
    assert store.scan("checkpoints").collect()["checkpoint_id"].to_list() == [identity]
    counts = extract(store, world.options, [checkpoint], default_extract(dim=64))
    assert counts["ok"] == 10


def test_a_checkpoint_of_another_adapter_is_refused(store, world, checkpoint):
    saved = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    first, second = saved["state"][0], saved["state"][1]
    saved["state"][0], saved["state"][1] = second, first
    torch.save(saved, checkpoint / "optimizer.pt")
    with pytest.raises(CheckpointError, match=r"should be the moments of .* has shape .* belongs to another adapter"):
        register(store, checkpoint, world.options)
    saved["param_groups"][0]["params"].pop()
    torch.save(saved, checkpoint / "optimizer.pt")
    with pytest.raises(CheckpointError, match="holds 11 parameters, this adapter trains 12"):
        register(store, checkpoint, world.options)
    assert not (checkpoint / "checkpoint.json").exists(), "a refused checkpoint was half registered"
    assert store.row_counts()["checkpoints"] == 0


def test_a_pickle_is_not_executed(store, world, checkpoint):
    class Payload:
        def __reduce__(self):
            return (pytest.fail, ("the pickle ran",))

    torch.save({"state": Payload()}, checkpoint / "optimizer.pt")
    with pytest.raises(CheckpointError, match="cannot be read safely"):
        register(store, checkpoint, world.options)


def test_a_folder_without_optimizer_is_refused(store, world, checkpoint):
    (checkpoint / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match=r"holds no optimizer\.pt and no optimizer\.bin"):
        register(store, checkpoint, world.options)


def test_an_optimizer_file_with_names_is_read_by_name(store, world, trained, checkpoint):
    """As FSDP saves it through accelerate: names with wrappers in them, in an order of its own."""
    saved = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    order = [i for g in saved["param_groups"] for i in g["params"]]
    names = [n.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default.") for n in trained[1]]
    state = {
        n.replace(".layers.", "._fsdp_wrapped_module.layers."): saved["state"][i]
        for n, i in zip(names, order, strict=True)
    }
    saved["state"] = dict(reversed(state.items()))
    torch.save(saved, checkpoint / "optimizer.bin")
    (checkpoint / "optimizer.pt").unlink()
    register(store, checkpoint, world.options)
    found = read_checkpoint(checkpoint).moments.by_name
    assert all(torch.equal(found[n][k], trained[1][n][k]) for n in trained[1] for k in (0, 1))


def test_moments_that_are_missing_for_some_parameters_are_named(store, world, trained, checkpoint):
    saved = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    frozen = next(i for g in saved["param_groups"] for i in g["params"])
    saved["state"][frozen] = {"step": saved["state"][frozen]["step"]}
    torch.save(saved, checkpoint / "optimizer.pt")
    with pytest.raises(CheckpointError, match="holds no Adam moments of .*: was it frozen"):
        register(store, checkpoint, world.options)
    named = {f"x.{n}": {} for n in trained[1]}
    torch.save({"state": named, "param_groups": saved["param_groups"]}, checkpoint / "optimizer.pt")
    with pytest.raises(CheckpointError, match="lacks the moments of 12 of 12 adapter parameters, first base_model"):
        register(store, checkpoint, world.options)


def test_moments_of_a_real_8_bit_adam_are_widened(world, tmp_path):
    """bitsandbytes' own state, against its own arithmetic; small parameters stay in float32."""
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="8-bit optimizers need the extra quant")
    loaded = load_model(world.options.model)
    model = add_lora(loaded.model, r=64, alpha=8, targets="q_proj", seed=0)
    parameters = adapter_parameters(model)
    optimizer = bitsandbytes.optim.AdamW8bit(parameters.values(), lr=1e-3, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator) * 1e-3
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    moments, record = read_trainer_checkpoint(tmp_path, model, "m", learning_rate=1e-3)
    assert (record.step, record.beta2) == (2, 0.99)
    widened = 0
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        if state["state1"].dtype == torch.uint8:
            widened += 1
            for k in (1, 2):
                codes, largest, values = (state[f"{part}{k}"] for part in ("state", "absmax", "qmap"))
                blocks = bitsandbytes.functional.dequantize_blockwise(codes, None, largest, values, blocksize=256)
                assert torch.allclose(moments[name][k - 1], blocks), name
        assert (moments[name][1] >= 0).all()
        assert moments[name][0].shape == parameter.shape
    assert widened, "no parameter was large enough to be kept in 8 bits: this test tested nothing"
