"""Fine-tune on an exported train.jsonl with a paper's settings: LoRA, QLoRA or all parameters, in TRL, with weights.

    pip install "trl[peft]>=1.16,<2" "transformers>=5.23,<6" "bitsandbytes>=0.50"
    python trl_sft.py --preset grait --model MODEL --data out/trl/train.jsonl --out adapter
    torchrun --nproc-per-node 4 trl_sft.py --preset grait --model MODEL --data out/trl/train.jsonl --out adapter
    python trl_sft.py --preset less --dry-run          # the settings as JSON; nothing is loaded

Copy it with sft_presets.toml, which has the numbers and where they were read. The trainer is the weighted_sft.py
that lies beside the data, or gradstore's own. Micro-batches are accumulated to the paper's samples a step on however
many processes there are, on which its loss does not depend. Nothing is packed: a packed row has no one weight.
QLoRA needs no GPU (bitsandbytes 0.50 runs nf4 on a CPU too, for small models); fp16 does: --precision fp32 or bf16.
"""

import argparse
import importlib.util
import json
import os
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

PRESETS = tomllib.loads(Path(__file__).with_name("sft_presets.toml").read_text(encoding="utf-8"))
DEFAULTS = PRESETS.pop("defaults")
CHOICES = {
    "tuning": ("qlora", "lora", "full"),
    "schedule": ("cosine", "linear", "constant", "constant_with_warmup"),
    "precision": ("fp16", "bf16", "fp32"),
    "loss": ("sample", "token"),
    "order": ("random", "sequential"),
    "save": ("no", "epoch"),
}
POSITIVE = ("lora_r", "lora_alpha", "lr", "epochs", "global_batch", "batch_size", "accumulation", "max_length")
SHARES = ("lora_dropout", "warmup_ratio")  # a warm-up of 1 and more would be a number of steps to TRL
LORA_ONLY = ("lora_r", "lora_alpha", "lora_dropout", "targets")
DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


class RecipeError(Exception):
    """What the user can set right; its text is all that is printed."""


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line: every setting of a preset has a flag of its name, None where it was not given."""
    parser = argparse.ArgumentParser(description="Fine-tune on an exported train.jsonl with a paper's settings.")
    parser.add_argument("--preset", choices=PRESETS, required=True)
    parser.add_argument("--model", help="a folder, or a name on the Hugging Face hub: that of the selection")
    parser.add_argument("--data", type=Path, help="train.jsonl of an export to trl")
    parser.add_argument("--out", type=Path, help="where the adapter (or the whole model, --tuning full) goes")
    parser.add_argument("--dry-run", action="store_true", help="print the settings as JSON, and load nothing")
    parser.add_argument("--accumulation", type=int, help="micro-batches a step, in place of --global-batch")
    parser.add_argument("--packing", action="store_true", help="refused: packed rows lose their weights")
    for name, value in DEFAULTS.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction)
        else:
            parser.add_argument(flag, type=type(value), choices=CHOICES.get(name))
    return parser.parse_args(argv)


def resolve(given: argparse.Namespace, processes: int) -> dict:
    """The settings of the preset, with what was given in their place, and what follows from both."""
    asked = {name: getattr(given, name) for name in DEFAULTS if getattr(given, name) is not None}
    settings = {"preset": given.preset, "not_stated": [], **DEFAULTS, **PRESETS[given.preset], **asked}
    settings["not_stated"] = [name for name in settings["not_stated"] if name not in asked]
    check_numbers({**settings, "accumulation": 1 if given.accumulation is None else given.accumulation})
    step = settings["batch_size"] * processes
    if given.accumulation is None and settings["global_batch"] % step:
        raise RecipeError(
            f"{settings['global_batch']} samples a step cannot be made of micro-batches of {settings['batch_size']} on "
            f"{processes} processes: pass a --batch-size and a --global-batch that divide, or --accumulation."
        )
    accumulation = given.accumulation or settings["global_batch"] // step
    settings |= {"accumulation": accumulation, "global_batch": step * accumulation, "processes": processes}
    left_out = LORA_ONLY if settings["tuning"] == "full" else ()
    return {name: value for name, value in settings.items() if name not in left_out} | {"packing": False}


def check_numbers(settings: dict) -> None:
    """Refuse numbers that TRL would read otherwise, or fail on later."""
    bad = [f"{name}={settings[name]}" for name in POSITIVE if not settings[name] > 0]
    bad += [f"{name}={settings[name]}" for name in SHARES if not 0 <= settings[name] < 1]
    if bad:
        raise RecipeError(f"{', '.join(bad)}: {' and '.join(SHARES)} lie in [0, 1), the other numbers are above 0.")


def read_rows(path: Path) -> list[dict]:
    """The rows of an exported train.jsonl."""
    try:
        with path.open(encoding="utf-8") as file:  # not splitlines: a question may hold U+2028
            rows = [json.loads(line) for line in file]
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read ({error}): pass as --data the train.jsonl of an export.") from None
    wanted = {"prompt", "completion", "weight"}
    bad = next((i for i, row in enumerate(rows, 1) if not (isinstance(row, dict) and wanted <= row.keys())), None)
    if bad or not rows:
        what = f"line {bad} lacks one of {', '.join(sorted(wanted))}" if bad else "it is empty"
        raise RecipeError(f"{path} is no export to trl, {what}: pass as --data the train.jsonl of one.")
    return rows


def check_prompts(rows: list[dict], model: str) -> None:
    """Refuse chat messages for a model without a chat template; say where plain text meets one that has one."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        why = str(error).strip().splitlines()[0]
        raise RecipeError(f"No tokenizer can be loaded from --model {model}: {why}") from None
    chats = isinstance(rows[0]["prompt"], list)
    if chats and not tokenizer.chat_template:
        raise RecipeError(
            f"The prompts are chat messages, but {model} has no chat template: train the model the selection was "
            "made with, or give its tokenizer that template."
        )
    if not chats and tokenizer.chat_template:
        print(f"note: {model} has a chat template, but the prompts are plain text and stay so", file=sys.stderr)


def load_trainer(data: Path):
    """The module weighted_sft: the file beside the data, else the one of an installed gradstore."""
    beside = data.parent / "weighted_sft.py"
    if not beside.exists():
        try:
            from gradstore.models import weighted_sft
        except ImportError as error:
            raise RecipeError(
                f"There is no weighted_sft.py beside {data}, and gradstore's is not to be had ({error}): pass --data "
                "as it lies in its export, or pip install 'gradstore[trl]'."
            ) from None
        return weighted_sft
    spec = importlib.util.spec_from_file_location("weighted_sft", beside)
    module = sys.modules["weighted_sft"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_machine(settings: dict) -> None:
    """Refuse what this machine cannot do, before a model is loaded."""
    import torch

    if settings["precision"] == "fp16" and not torch.cuda.is_available():
        raise RecipeError("precision=fp16 needs a CUDA GPU, and there is none here: pass --precision fp32, or bf16.")
    if settings["tuning"] == "qlora" and importlib.util.find_spec("bitsandbytes") is None:
        raise RecipeError("tuning=qlora needs bitsandbytes: pip install 'bitsandbytes>=0.50', or pass --tuning lora.")


def sft_config(settings: dict, out: Path):
    """The settings as TRL names them."""
    import torch
    from trl import SFTConfig

    gpu = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(out),
        num_train_epochs=settings["epochs"],
        learning_rate=settings["lr"],
        lr_scheduler_type=settings["schedule"],
        warmup_steps=settings["warmup_ratio"],  # below 1: a share of the steps
        per_device_train_batch_size=settings["batch_size"],
        gradient_accumulation_steps=settings["accumulation"],
        fp16=settings["precision"] == "fp16",
        bf16=settings["precision"] == "bf16",
        max_length=settings["max_length"],
        weight_decay=settings["weight_decay"],
        max_grad_norm=settings["max_grad_norm"],
        optim="adamw_torch",
        completion_only_loss=not settings["train_on_prompt"],
        train_sampling_strategy=settings["order"],
        save_strategy=settings["save"],
        seed=settings["seed"],
        # all parameters stay in float32 where all are trained, as CRaFT's do; fp16 and bf16 are then arithmetic only
        model_init_kwargs={"dtype": "float32" if settings["tuning"] == "full" else DTYPES[settings["precision"]]},
        use_cpu=not gpu,
        dataloader_pin_memory=gpu,
        report_to="none",
    )


def adapter(settings: dict) -> dict:
    """The trainer's arguments for LoRA, and for the 4-bit base under it; none where all parameters are trained."""
    import torch
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig

    if settings["tuning"] == "full":
        return {}
    targets = settings["targets"]
    lora = LoraConfig(
        r=settings["lora_r"],
        lora_alpha=settings["lora_alpha"],
        lora_dropout=settings["lora_dropout"],
        target_modules=targets if targets == "all-linear" else targets.split(","),
        task_type="CAUSAL_LM",
    )
    if settings["tuning"] == "lora":
        return {"peft_config": lora}
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, DTYPES[settings["precision"]]),
    )
    return {"peft_config": lora, "quantization_config": nf4}


def train(settings: dict, given: argparse.Namespace) -> None:
    """Train, and write the adapter (or the model) and ``recipe.json``, the settings it was trained with."""
    from datasets import Dataset

    rows = read_rows(given.data)
    check_machine(settings)
    check_prompts(rows, given.model)
    trainer = load_trainer(given.data).WeightedSFTTrainer(
        given.model,
        sft_config(settings, given.out),
        train_dataset=Dataset.from_list(rows),
        loss=settings["loss"],
        **adapter(settings),
    )
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:  # TRL 1.16 makes QLoRA's bfloat16, whose gradients the scaler of fp16 cannot take
            parameter.data = parameter.data.float()
    trainer.train()
    trainer.save_model()
    if trainer.is_world_process_zero():
        (given.out / "recipe.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def run(given: argparse.Namespace) -> None:
    """Do what the command line asks. Raises RecipeError with one line."""
    if given.packing:
        try:
            load_trainer(given.data or Path("train.jsonl")).check_settings(SimpleNamespace(packing=True))
        except ValueError as error:
            raise RecipeError(f"{error} To pack, train without weights, by TRL's own SFTTrainer.") from None
    settings = resolve(given, int(os.environ.get("WORLD_SIZE", "1")))
    missing = [f"--{name}" for name in ("model", "data", "out") if getattr(given, name) is None]
    if given.dry_run:
        print(json.dumps(settings, indent=2))
    elif missing:
        raise RecipeError(f"{', '.join(missing)} missing: training needs a model, its data, and a folder to write to.")
    else:
        train(settings, given)


def main(argv: list[str] | None = None) -> int:
    """Run as a command: 0, or 1 with one line of what to do."""
    try:
        run(parse(argv))
    except RecipeError as error:
        print(f"trl_sft.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
