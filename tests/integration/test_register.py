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
    with pytest.raises(CheckpointError, match=r"index 0 has shape .* belongs to another adapter"):
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
    with pytest.raises(CheckpointError, match=r"holds no optimizer\.pt"):
        register(store, checkpoint, world.options)
