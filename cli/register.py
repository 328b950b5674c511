"""``gradstore register``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gradstore.cli.options import json_option, model_options, show, store_argument

if TYPE_CHECKING:
    from gradstore.pipelines import ModelOptions


@click.command("register")
@store_argument
@click.argument("folder", type=click.Path())
@model_options
@click.option("--learning-rate", type=float, help="Its weight among checkpoints; default from trainer_state.json.")
@json_option
def command(store: str, folder: str, options: ModelOptions, learning_rate: float | None, as_json: bool) -> None:
    """Record a checkpoint FOLDER of Hugging Face's Trainer (peft adapter and optimizer.pt or optimizer.bin).

    Prints the learning rate it found: the checkpoint's weight in influence, which --learning-rate overrides.
    Writes moments.safetensors and checkpoint.json into FOLDER.
    Example: gradstore register S output/checkpoint-420 --model M
    """
    from gradstore.models.checkpoints import read_checkpoint
    from gradstore.pipelines.warmup import register
    from gradstore.store import GradientStore

    identity = register(GradientStore.open(store), folder, options, learning_rate=learning_rate)
    record = read_checkpoint(folder).record
    said = {k: getattr(record, k) for k in ("learning_rate", "step", "epoch", "beta1", "beta2", "eps")}
    show({"checkpoint_id": identity, **said}, as_json)
