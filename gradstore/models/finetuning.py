"""Fine-tune on exported rows, in this process, with the very trainer that the export carries."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig

from gradstore.models.loading import LoadedModel
from gradstore.models.weighted_sft import WeightedSFTTrainer


@dataclass(frozen=True)
class SFTSettings:
    """LoRA and optimiser; the rate falls by a cosine to 0, as in CRaFT and GRAIT.

    A constant rate, with a look after each epoch, would show many strengths in one run; but there the share of
    refusals swung between 26 and 79 % from one epoch to the next.
    """

    epochs: int = 6
    learning_rate: float = 2e-4
    batch_size: int = 16
    lora_r: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.1
    max_length: int = 512
    seed: int = 0


def fine_tune(loaded: LoadedModel, rows: Sequence[dict[str, Any]], settings: SFTSettings, log: Path) -> LoadedModel:
    """Train a LoRA on ``rows`` (prompt, completion, weight) and return the tuned model, ready to be asked.

    What the trainer prints goes to ``log``. ``loaded`` is used up: its base model carries the adapter afterwards.
    """
    with (
        TemporaryDirectory() as folder,
        log.open("a") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        arguments = SFTConfig(
            output_dir=folder,
            num_train_epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="cosine",
            per_device_train_batch_size=settings.batch_size,
            seed=settings.seed,
            max_length=settings.max_length,
            dataloader_pin_memory=False,
            use_cpu=loaded.device.type == "cpu",
            bf16=False,  # TRL's default; on a CPU it made a step ten times slower
            gradient_checkpointing=False,  # TRL's default too; these models are small
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        lora = LoraConfig(
            r=settings.lora_r,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        trainer = WeightedSFTTrainer(
            loaded.model,
            arguments,
            train_dataset=Dataset.from_list(list(rows)),
            processing_class=loaded.tokenizer,
            peft_config=lora,
        )
        trainer.train()
    tuned: Any = trainer.model
    return replace(loaded, model=tuned.eval())
