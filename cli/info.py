"""``gradstore info``."""

import click

from gradstore.cli.options import json_option, show, store_argument


@click.command("info")
@store_argument
@json_option
def command(store: str, as_json: bool) -> None:
    """What is in STORE: rows of each table, unfinished runs, selections.

    Example: gradstore info S
    """
    import polars as pl

    from gradstore.store import GradientStore

    opened = GradientStore.open(store)
    runs = opened.scan("runs").select("stage", "status").collect()
    selections = opened.scan("selections").select("selection").unique().sort("selection").collect()
    show(
        {
            "store": store,
            **{f"rows in {name}": count for name, count in opened.row_counts().items()},
            "recipes": opened.recipe_ids(),
            "selections": selections["selection"].to_list(),
            "unfinished runs": runs.filter(pl.col("status") == "started")["stage"].to_list(),
        },
        as_json,
    )
