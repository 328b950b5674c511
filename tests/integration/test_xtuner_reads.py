"""xtuner's own code reads what is exported for it, and trains by the configs in examples/xtuner.

xtuner pins transformers 4.48, so it lives in an environment of its own: the one GRADSTORE_XTUNER_ENV names, or one
made for the test (2 GB). GRADSTORE_GRAIT_XTUNER names the folder that holds the folder ``xtuner`` of GRAIT's
repository; without it the fork is not tested.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.packaging]

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples" / "xtuner"
CHAT = (  # Llama 3's
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MARKS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
WEIGHTS = [1.0, 0.0, 2.5, 0.25, 1.0, 1.25]
DRIVER = """
import importlib.machinery, json, sys, types
import torch, transformers.utils.import_utils as found

def empty(name, **holds):
    module = sys.modules[name] = types.ModuleType(name)
    module.__spec__, module.__version__ = importlib.machinery.ModuleSpec(name, None), "0"
    for key, value in holds.items():
        setattr(module, key, value)
    return module

given = json.load(open("given.json"))
found._torchvision_available = False  # PyPI's cannot be imported against a CPU build of torch
functional = empty("torchvision.transforms.functional", InterpolationMode=None)
empty("torchvision", transforms=empty("torchvision.transforms", functional=functional))
torch.cpu.is_bf16_supported = lambda: False  # xtuner 0.2.0 calls it, torch lacks it
if given["fork"]:
    empty("deepspeed")
sys.path.insert(0, given["examples"])

import xtuner
from map_fn import plain_text
from mmengine.config import Config
from mmengine.runner import Runner
from xtuner.registry import BUILDER
from xtuner.tools.train import register_function

def config(name, data, chat):
    config = Config.fromfile(given["examples"] + "/" + name)
    dataset, llm = config.train_dataloader.dataset, config.model.llm
    dataset.dataset.data_files.train, dataset.map_num_proc, config.train_dataloader.num_workers = data, 1, 0
    dataset.tokenizer.pretrained_model_name_or_path = llm.pretrained_model_name_or_path = "model"
    if not chat:
        dataset.template_map_fn, dataset.dataset_map_fn = None, plain_text
    llm.torch_dtype = "float32"
    llm.pop("quantization_config")
    for key in ("loss_scale", "dtype"):
        config.optim_wrapper.pop(key)
    config.optim_wrapper.update(type="mmengine.optim.OptimWrapper", accumulative_counts=2)
    config.work_dir, config.launcher = "work", "none"
    register_function(config._cfg_dict)
    return config

def read(config):
    rows = BUILDER.build(config.train_dataloader.dataset)
    return [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in rows], rows

out = {"version": xtuner.__version__, "file": xtuner.__file__}
out["rows"] = {data: read(config(name, data, chat))[0] for name, data, chat in given["reads"]}
if given["fork"]:
    made = config(given["train"], given["reads"][0][1], given["reads"][0][2])
    collate = dict(made.train_dataloader.collate_fn)
    collate_fn, model = collate.pop("type"), BUILDER.build(made.model)
    batches = [collate_fn([row], **collate) for row in read(made)[1]]
    model.eval()
    out["losses"] = [model(**batch, mode="loss")["loss"].item() for batch in batches]
else:
    Runner.from_cfg(config(given["train"], given["trained"], True)).train()
json.dump(out, open("out.json", "w"))
"""


@pytest.fixture(scope="session")
def xtuner_python(tmp_path_factory):
    """The Python of an environment with xtuner 0.2.0."""
    if given := os.environ.get("GRADSTORE_XTUNER_ENV"):
        return Path(given) / "bin" / "python"
    folder = tmp_path_factory.mktemp("xtuner")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    python = folder / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "pip", "--quiet", "install", torch, "xtuner==0.2.0"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"xtuner 0.2.0 could not be installed: {done.stderr.strip().splitlines()[-1]}")
    return python


def questions(chat: bool):
    """Six examples of all weights; the chats have a system message, or a few-shot turn, or neither."""
    from gradstore.export import Example

    examples = []
    for i, weight in enumerate(WEIGHTS):
        question, answer = f"Question: Who was born in year {i}?\nAnswer:", f"person {i}" if i % 2 else "I don't know."
        prompt, completion = question, f" {answer}"
        if chat:
            shot = [{"role": "user", "content": "Who am I?"}, {"role": "assistant", "content": "person 0"}]
            system = [{"role": "system", "content": "Be brief."}]
            prompt = [*(system if i % 3 == 0 else []), *(shot if i % 2 else []), {"role": "user", "content": question}]
            completion = [{"role": "assistant", "content": answer}]
        examples.append(Example(str(i), "known" if i % 2 else "unknown", prompt, completion, weight))
    return examples


@pytest.fixture
def exported(tmp_path):
    """A folder with a model, and exports of chats and of plain text; and what its tokenizer makes of both."""
    from gradstore.export import write_xtuner
    from gradstore.models.pretraining import bpe_tokenizer, small_llama

    texts = [f"{e.prompt}{e.completion}" for e in questions(False)]
    tokenizer = bpe_tokenizer(texts * 3, 400)
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    tokenizer.chat_template = CHAT
    small_llama(tokenizer, width=16, layers=1, heads=2).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    names = {name: str(getattr(tokenizer, name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    older = {"tokenizer_class": "PreTrainedTokenizerFast", **names}  # what transformers 4.48 can read
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(older))
    for kind, chat in (("chat", True), ("text", False)):
        write_xtuner(questions(chat), tmp_path / kind, {})
    shutil.copy(EXAMPLES / "replicate.py", tmp_path)
    return tmp_path, tokenizer


def drive(python: Path, folder: Path, fork: str = "", **given) -> dict:
    """Run the driver in xtuner's environment; what it found."""
    (folder / "given.json").write_text(json.dumps({"examples": str(EXAMPLES), "fork": fork, **given}))
    (folder / "driver.py").write_text(DRIVER)
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "CUDA_VISIBLE_DEVICES": ""}
    if fork:
        env["PYTHONPATH"] = fork
    done = subprocess.run([python, "driver.py"], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "out.json").read_text())


def assert_same_tokens(rows: list[dict], file: Path, chat: bool, tokenizer) -> None:
    """xtuner's ids and labels of every row of ``file`` are those that gradients and TRL have."""
    from gradstore.models.encoding import encode

    by_id = {e.sample_id: e for e in questions(chat)}
    ids = [row["sample_id"] for row in json.loads(file.read_text())]
    assert len(rows) == len(ids) > 0
    for sample_id, row in zip(ids, rows, strict=True):
        ours = encode(tokenizer, by_id[sample_id].prompt, by_id[sample_id].completion, 2048)
        assert row["input_ids"] == ours.ids, f"{file.name}, {sample_id}: other tokens"
        assert row["labels"] == ours.labels, f"{file.name}, {sample_id}: the loss covers other tokens"


def test_xtuner_reads_the_export_and_trains_on_its_copies(xtuner_python, exported):
    """Token ids and labels are TRL's; the config goes from the file to a checkpoint."""
    folder, tokenizer = exported
    data, copies = folder / "chat" / "xtuner" / "grait.json", folder / "replicated.json"
    subprocess.run([sys.executable, "replicate.py", data, copies, "--copies", "4"], cwd=folder, check=True)
    reads = [
        ("replicated.py", str(folder / kind / "xtuner" / "plain.json"), kind == "chat") for kind in ("chat", "text")
    ]
    reads.append(("replicated.py", str(copies), True))
    found = drive(xtuner_python, folder, reads=reads, train="replicated.py", trained=str(copies))
    assert found["version"] == "0.2.0"
    for _, file, chat in reads:
        assert_same_tokens(found["rows"][file], Path(file), chat, tokenizer)
    assert len(found["rows"][str(copies)]) == 4 * sum(WEIGHTS)
    assert (folder / "work" / f"iter_{4 * sum(WEIGHTS):.0f}.pth").exists(), "one iteration a copy, to the end"


def test_the_fork_of_grait_weighs_the_export(xtuner_python, exported):
    """Its loss of each row is alpha times the mean over the row's label tokens."""
    fork = os.environ.get("GRADSTORE_GRAIT_XTUNER")
    if not fork:
        pytest.skip("GRADSTORE_GRAIT_XTUNER names no folder that holds the folder xtuner of GRAIT's repository")
    import torch
    from transformers import AutoModelForCausalLM

    folder, tokenizer = exported
    data = folder / "chat" / "xtuner" / "grait.json"
    reads = [("grait.py", str(data), True)]
    found = drive(xtuner_python, folder, fork=fork, reads=reads, train="grait.py")
    assert found["version"] == "0.1.23"
    assert_same_tokens(found["rows"][str(data)], data, True, tokenizer)
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    rows = json.loads(data.read_text())
    for row, read, loss in zip(rows, found["rows"][str(data)], found["losses"], strict=True):
        tensors = {name: torch.tensor([value]) for name, value in read.items()}
        mean = model(**tensors).loss.item()
        assert loss == pytest.approx(row["conversation"][0]["alpha"] * mean, rel=1e-4, abs=1e-7)
