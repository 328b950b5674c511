"""Supervised fine-tuning with one weight per sample. Needs trl >= 1.16 and no gradstore: copy it anywhere.

    pip install "trl[peft]>=1.16,<2"
    python weighted_sft.py --model MODEL --data train.jsonl --out adapter

Over the n samples i of one optimiser step (all micro-batches, all processes), where sample i has T_i label
tokens t and L_it = -log p(token t of sample i | what is before it):

    loss="sample"    L = (1/n) Σ_i w_i · (1/T_i) Σ_t L_it
    loss="token"     L = (Σ_i w_i Σ_t L_it) / (Σ_i T_i)

"sample" is GRAIT's loss (arXiv 2502.05911), α times the mean over the tokens, which its code has at batch
size 1 only. "token" is TRL's own "nll" loss where every weight is 1. Both divide by a count, not by Σ_i w_i,
so a weight means the same in whatever batch its sample falls. A sample without label tokens counts in n, with
loss 0. Where the samples do not fill the last step of an epoch on every process, accelerate repeats some.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from trl import SFTConfig, SFTTrainer

IGNORED = -100  # the label of a token that is not trained on
LOSSES = ("sample", "token")
LOSES_WEIGHTS = {  # setting: (the value that keeps weights, why any other loses them)
    "packing": (False, "several samples share one row, which has no one weight"),
    "eval_packing": (False, "several samples share one row, which has no one weight"),
    "padding_free": (False, "the samples of a batch are joined into one row, which has no one weight"),
    "use_liger_kernel": (False, "the loss is fused into a kernel that knows no weights"),
    "label_smoothing_factor": (0.0, "the smoothed loss knows no weights"),
    "loss_type": ("nll", "this loss knows no weights"),
}


def check_settings(args) -> None:
    """Refuse every setting under which TRL would train, silently, without the weights."""
    for name, (keeps, why) in LOSES_WEIGHTS.items():
        value = getattr(args, name, None)
        if value is not None and value != keeps:
            raise ValueError(f"{name}={value!r}: {why}, so weights would be lost. Set {name}={keeps!r}.")


def check_weights(dataset) -> None:
    """Refuse training data whose weights are missing, cannot be read beforehand, or are not finite, >= 0."""
    if not hasattr(dataset, "__len__"):
        raise ValueError(
            f"train_dataset is of type {type(dataset).__name__}: its weights cannot be checked before "
            "training, and a missing one would count as 1. Pass a datasets.Dataset, loaded without streaming."
        )
    if "weight" not in dataset.column_names:
        raise ValueError(
            f"train_dataset has no column 'weight', only {dataset.column_names}: every sample would count as "
            "1. Add the column, or use SFTTrainer if no weights are meant."
        )
    bad = [w for w in dataset["weight"] if not (isinstance(w, int | float) and math.isfinite(w) and w >= 0)]
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(dataset)} weights are not finite numbers >= 0, the first is {bad[0]!r}: "
            "training would push samples away, or end in NaN. Correct them, or leave those rows out."
        )


class WeightCollator:
    """Collate as ``base`` does, and add ``weight``: (rows,) float32; a row without one (evaluation) has 1."""

    def __init__(self, base) -> None:
        self.base = base

    def __call__(self, rows: list[dict]) -> dict:
        weight = torch.tensor([float(row.get("weight", 1.0)) for row in rows])
        return {**self.base([{k: row[k] for k in row if k != "weight"} for row in rows]), "weight": weight}


class WeightedSFTTrainer(SFTTrainer):
    """TRL's SFTTrainer, where a sample counts as its column ``weight`` says: see the top of this file."""

    # What compute_loss returns is already divided by the items of the whole optimiser step.
    loss_is_scaled_for_ga: Any = True

    def __init__(self, model, args=None, data_collator=None, train_dataset=None, *, loss="sample", **more):
        if loss not in LOSSES:
            raise ValueError(f"loss={loss!r} is not known. Choose one of {', '.join(LOSSES)}.")
        if more.get("compute_loss_func") is not None:
            raise ValueError("compute_loss_func sees no weights, so they would be lost. Leave it out.")
        check_settings(args)
        check_weights(train_dataset)
        self.loss = loss
        super().__init__(model, args, data_collator, train_dataset, **more)
        self._check_model()
        self.data_collator = WeightCollator(self.data_collator)

    def _check_model(self) -> None:
        """Refuse what only the built model shows: split sequences, or a second term of the loss."""
        config = self.accelerator.parallelism_config
        if config is not None and (config.cp_enabled or config.sp_enabled):
            raise ValueError(
                "Context and sequence parallelism split a sample over processes, so its mean loss, and with "
                "it its weight, would be wrong. Use data parallelism: cp_size=1, sp_size=1."
            )
        if self.aux_loss_enabled:
            raise ValueError(
                "The router loss of a mixture of experts is not per sample, so weights would be lost on it. "
                "Set router_aux_loss_coef=0.0."
            )

    def _set_signature_columns_if_needed(self) -> None:
        """Keep ``weight`` where remove_unused_columns=True drops every column that is not named here."""
        super()._set_signature_columns_if_needed()
        columns: Any = self._signature_columns
        if "weight" not in columns:
            columns.append("weight")

    def _items(self, labels: torch.Tensor) -> torch.Tensor:
        """Count what the loss is divided by: samples, or label tokens (the first is never predicted)."""
        return torch.tensor(len(labels)) if self.loss == "sample" else (labels[:, 1:] != IGNORED).sum()

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Fetch the micro-batches of one optimiser step, and count their items over all processes.

        Counted whatever average_tokens_across_devices says: without it, a process with fewer items would give
        each of its samples a greater say.
        """
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        items = torch.as_tensor(sum(self._items(batch["labels"]) for batch in batches), device=device)
        return batches, self.accelerator.gather(items).sum()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return this micro-batch's term of L; in evaluation, where each batch stands alone, its own L."""
        inputs = dict(inputs)
        weight, labels = inputs.pop("weight"), inputs.pop("labels")[:, 1:]  # (rows,), (rows, tokens)
        outputs = model(**{**inputs, "use_cache": False})
        kept = labels != IGNORED
        token_loss = cross_entropy(outputs.logits[:, :-1][kept].float(), labels[kept], reduction="none")
        sample_loss = token_loss.new_zeros(kept.shape).masked_scatter(kept, token_loss).sum(1)  # (rows,)
        if self.loss == "sample":
            sample_loss = sample_loss / kept.sum(1).clamp(min=1)
        total = (weight.to(sample_loss) * sample_loss).sum()
        if model.training:
            # The count is over all processes, over which DistributedDataParallel then averages the gradients.
            loss = total * self.accelerator.num_processes / num_items_in_batch.clamp(min=1)
        else:
            loss = total / (len(kept) if self.loss == "sample" else kept.sum().clamp(min=1))
        return (loss, outputs) if return_outputs else loss


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line. Defaults as in GRAIT's code: 64 samples a step, r 64, lr 2e-4, 3 epochs."""
    parser = argparse.ArgumentParser(description="Train a LoRA adapter with one weight per sample.")
    parser.add_argument("--model", required=True, help="a folder, or a name on the Hugging Face hub")
    parser.add_argument("--data", type=Path, default=Path(__file__).with_name("train.jsonl"))
    parser.add_argument("--out", required=True, help="where the adapter goes")
    parser.add_argument("--loss", choices=LOSSES, default="sample")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--batch-size", type=int, default=8, help="samples a micro-batch and process")
    parser.add_argument("--accumulation", type=int, default=8, help="micro-batches an optimiser step")
    parser.add_argument("--lora-r", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-length", type=int, default=2048, help="longer samples lose their end")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Train on ``--data`` and save the adapter; start it with torchrun to use several GPUs."""
    from datasets import Dataset
    from peft import LoraConfig

    given = parse(argv)
    with given.data.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    gpu = torch.cuda.is_available()
    args = SFTConfig(
        output_dir=given.out,
        num_train_epochs=given.epochs,
        learning_rate=given.lr,
        lr_scheduler_type="cosine",
        per_device_train_batch_size=given.batch_size,
        gradient_accumulation_steps=given.accumulation,
        seed=given.seed,
        max_length=given.max_length,
        bf16=gpu and torch.cuda.is_bf16_supported(),
        dataloader_pin_memory=gpu,
        model_init_kwargs={"dtype": "auto"},
        save_strategy="no",
        report_to="none",
    )
    lora = LoraConfig(
        r=given.lora_r, lora_alpha=16, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer = WeightedSFTTrainer(
        given.model, args, train_dataset=Dataset.from_list(rows), peft_config=lora, loss=given.loss
    )
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
