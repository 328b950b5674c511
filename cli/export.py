"""``gradstore export``."""

import click

from gradstore.cli.options import json_option, show, store_argument


@click.command("export")
@store_argument
@click.argument("name")
@click.option("--to", required=True, help="trl or xtuner.")
@click.option("--out", required=True, type=click.Path(), help="Folder; the files go to OUT/trl or OUT/xtuner.")
@json_option
def command(store: str, name: str, to: str, out: str, as_json: bool) -> None:
    """Write the selection NAME as training data with weights, and what the trainer needs to use them.

    Example: gradstore export S g --to trl --out out
    """
    from gradstore.pipelines.export import export
    from gradstore.store import GradientStore

    paths = export(GradientStore.open(store), name, to, out)
    show({"written": [str(p) for p in paths]}, as_json)
