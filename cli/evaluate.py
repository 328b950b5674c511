"""``gradstore evaluate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gradstore.cli.options import json_option, model_options, progress, show, store_argument

if TYPE_CHECKING:
    from gradstore.pipelines import ModelOptions


@click.command("evaluate")
@store_argument
@model_options
@click.option("--name", required=True, help="Name of the evaluation.")
@click.option("--adapter", type=click.Path(), help="Tuned adapter; without it the model itself.")
@click.option("--template", help="Prompt (default: refuse with an adapter, basic without).")
@click.option(
    "--role", type=click.Choice(["train", "demo", "test"]), default="test", show_default=True, help="Which samples."
)
@click.option("--against", help="Evaluation of the initial model: adds THS, over-refusal and hallucinations fixed.")
@json_option
def command(
    store: str,
    options: ModelOptions,
    name: str,
    adapter: str | None,
    template: str | None,
    role: str,
    against: str | None,
    as_json: bool,
) -> None:
    """Ask a model the test questions, greedily, and judge what it says.

    Example: gradstore evaluate S --model M --name init
    """
    from gradstore.pipelines.evaluate import compare, evaluate
    from gradstore.store import GradientStore

    opened = GradientStore.open(store)
    asked = template or ("refuse" if adapter else "basic")
    with progress() as bar:
        result = evaluate(opened, name, options, adapter=adapter, template=asked, role=role, progress=bar)
    show(compare(opened, against, name) if against else result, as_json)
