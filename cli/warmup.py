"""``gradstore warmup``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gradstore.cli.options import json_option, model_options, progress, show, store_argument

if TYPE_CHECKING:
    from gradstore.pipelines import ModelOptions


@click.command("warmup")
@store_argument
@model_options
@click.option("--out", required=True, type=click.Path(), help="Folder for the checkpoints, one an epoch.")
@click.option(
    "--rehearsal",
    default=1000,
    type=click.IntRange(min=1),
    show_default=True,
    help="How many of the most correct samples rehearse.",
)
@click.option("--threshold", default=0.5, show_default=True, help="Least correctness of a rehearsal sample.")
@click.option("--probe", "probe_id", help="Which probe, where there are several.")
@click.option("--epochs", default=4, show_default=True, type=click.IntRange(min=1))
@click.option("--lr", default=2e-4, show_default=True, help="Learning rate.")
@click.option("--batch-size", default=16, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--lora-r", default=16, type=click.IntRange(min=1), show_default=True, help="LoRA rank; alpha is twice the rank."
)
@click.option("--targets", default="all-linear", show_default=True, help="Modules with LoRA, separated by commas.")
@click.option("--seed", default=0, show_default=True)
@json_option
def command(
    store: str,
    options: ModelOptions,
    out: str,
    rehearsal: int,
    threshold: float,
    probe_id: str | None,
    epochs: int,
    lr: float,
    batch_size: int,
    lora_r: int,
    targets: str,
    seed: int,
    as_json: bool,
) -> None:
    """Train a LoRA on what the model knows, and keep every epoch with its Adam moments.

    Example: gradstore warmup S --model M --out S.work/warmup
    """
    from gradstore.models.warmup import WarmupSettings
    from gradstore.pipelines.warmup import warmup
    from gradstore.store import GradientStore

    settings = WarmupSettings(
        r=lora_r, alpha=2 * lora_r, targets=targets, epochs=epochs, batch_size=batch_size, learning_rate=lr, seed=seed
    )
    with progress() as bar:
        folders = warmup(
            GradientStore.open(store),
            options,
            out,
            settings,
            rehearsal=rehearsal,
            threshold=threshold,
            probe_id=probe_id,
            progress=bar,
        )
    show({"checkpoints": [str(f) for f in folders]}, as_json)
