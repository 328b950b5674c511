"""``gradstore extract``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gradstore.cli.options import (
    FEATURES,
    device_names,
    devices_option,
    json_option,
    model_options,
    reporting,
    shard_option,
    show,
    store_argument,
)

if TYPE_CHECKING:
    from gradstore.pipelines import ModelOptions


@click.command("extract")
@store_argument
@model_options
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=click.Path(),
    help="Checkpoint folder, or a warm-up folder for all its epochs (repeatable).",
)
@click.option(
    "--init-lora", metavar="r=16,targets=q_proj,v_proj", help="No checkpoint: a fresh LoRA; also alpha=, seed=."
)
@click.option("--work", type=click.Path(), help="Folder for a fresh LoRA (default STORE.work).")
@click.option("--feature", default="adam", show_default=True, type=click.Choice(FEATURES))
@click.option(
    "--loss",
    default="mean",
    show_default=True,
    type=click.Choice(["mean", "sum"]),
    help="Of a response's tokens.",
)
@click.option(
    "--sketch",
    "sketch_kind",
    default="countsketch",
    show_default=True,
    type=click.Choice(["countsketch", "rademacher"]),
    help="Random projection; rademacher is dense and slow, for comparison with LESS.",
)
@click.option("--dim", default=8192, show_default=True, help="Floats a stored vector.")
@click.option("--sketch-seed", default=0, show_default=True, help="Of the random projection.")
@click.option("--sparsity", default=1, show_default=True, help="Non-zeros a coordinate of a countsketch.")
@click.option(
    "--share-prompts/--no-share-prompts", default=True, help="A prompt goes through the model once, if exact."
)
@click.option("--gradient-checkpointing", is_flag=True, help="A third more time for a fraction of the memory.")
@click.option("--estimate", is_flag=True, help="Only say rows, disk, memory and time; write no row.")
@devices_option
@shard_option
@json_option
def command(
    store: str,
    options: ModelOptions,
    checkpoints: tuple[str, ...],
    init_lora: str | None,
    work: str | None,
    feature: str,
    loss: str,
    sketch_kind: str,
    dim: int,
    sketch_seed: int,
    sparsity: int,
    share_prompts: bool,
    gradient_checkpointing: bool,
    estimate: bool,
    devices: str | None,
    shard: str | None,
    as_json: bool,
) -> None:
    """Write gradient rows of both responses of every training sample.

    Example: gradstore extract S --model M --checkpoint S.work/warmup/epoch-4
    """
    from gradstore.pipelines.extract import extract, extract_on
    from gradstore.pipelines.fresh import fresh_adapter
    from gradstore.pipelines.recipes import ExtractSettings, HowToRun
    from gradstore.pipelines.shards import Shard
    from gradstore.store import GradientStore

    if bool(checkpoints) == bool(init_lora):
        raise click.UsageError("give --checkpoint, or --init-lora where there is none")
    if devices and shard:
        raise click.UsageError("--devices makes shards of its own: leave out --shard")
    settings = ExtractSettings(feature, dim, sketch_seed, sparsity, sketch_kind=sketch_kind, loss=loss)
    part = Shard.parse(shard) if shard else Shard()
    how = HowToRun(share_prompts, gradient_checkpointing, part, estimate)
    opened = GradientStore.open(store)
    with reporting() as (bar, tell):
        if init_lora:
            checkpoints = (str(fresh_adapter(store, options, init_lora, feature, work, tell)),)
        if devices:
            names = device_names(devices)
            counts = extract_on(names, store, options, checkpoints, settings, how, progress=bar, tell=tell)
        else:
            counts = extract(opened, options, checkpoints, settings, how, progress=bar, tell=tell)
    show(counts, as_json)
