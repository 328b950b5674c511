"""``gradstore gc``."""

import click

from gradstore.cli.options import json_option, show, store_argument


@click.command("gc")
@store_argument
@json_option
def command(store: str, as_json: bool) -> None:
    """Remove what can be made again: the vectors laid out for methods that read them many times.

    Tables and their versions stay. Example: gradstore gc S
    """
    from gradstore.store import GradientStore, clear_cache

    show({"freed_bytes": clear_cache(GradientStore.open(store))}, as_json)
