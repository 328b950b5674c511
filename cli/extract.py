"""``gradstore extract``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gradstore.cli.options import json_option, model_options, progress, show, store_argument

if TYPE_CHECKING:
    from gradstore.pipelines import ModelOptions


@click.command("extract")
@store_argument
@model_options
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    required=True,
    type=click.Path(),
    help="Checkpoint folder, or a warm-up folder for all its epochs (repeatable).",
)
@click.option("--feature", default="adam", show_default=True, type=click.Choice(["adam", "less", "sgd"]))
@click.option("--dim", default=8192, show_default=True, help="Floats a stored vector.")
@click.option("--sketch-seed", default=0, show_default=True, help="Of the random projection.")
@click.option("--sparsity", default=1, show_default=True, help="Non-zeros a coordinate of the projection.")
@json_option
def command(
    store: str,
    options: ModelOptions,
    checkpoints: tuple[str, ...],
    feature: str,
    dim: int,
    sketch_seed: int,
    sparsity: int,
    as_json: bool,
) -> None:
    """Write gradient rows of both responses of every training sample.

    Example: gradstore extract S --model M --checkpoint S.work/warmup/epoch-4
    """
    from gradstore.pipelines.extract import ExtractSettings, extract
    from gradstore.store import GradientStore

    settings = ExtractSettings(feature, dim, sketch_seed, sparsity)
    with progress() as bar:
        counts = extract(GradientStore.open(store), options, checkpoints, settings, progress=bar)
    show(counts, as_json)
