"""``gradstore lab``."""

import click

from gradstore.cli.options import json_option, progress, show


@click.group("lab")
def command() -> None:
    """Models with a known boundary of knowledge, trained on the spot."""


@command.command("pretrain")
@click.argument("file")
@click.option("--preset", required=True, help="nq, arc, mmlu, triviaqa or qa.")
@click.option("--limit", type=click.IntRange(min=10), help="The first N samples.")
@click.option("--out", required=True, type=click.Path(), help="Model folder.")
@click.option("--steps", default=600, show_default=True, type=click.IntRange(min=20))
@click.option("--seed", default=0, show_default=True)
@json_option
def pretrain(file: str, preset: str, limit: int | None, out: str, steps: int, seed: int, as_json: bool) -> None:
    """Train a small Llama on FILE: a seeded share of its questions often, some rarely, the rest never.

    Which was which is written beside the model; `gradstore build` records it as `exposure`.
    Example: gradstore lab pretrain nq/dev.json --preset nq --limit 1500 --out M
    """
    from gradstore.pipelines.lab.pretrain import pretrain_on

    with progress() as bar:
        result = pretrain_on(file, preset=preset, limit=limit, out=out, steps=steps, seed=seed, progress=bar)
    show(result, as_json)
