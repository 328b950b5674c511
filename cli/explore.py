"""``gradstore explore``."""

from __future__ import annotations

import sys

import click

from gradstore.cli.options import store_argument


@click.command("explore")
@store_argument
@click.option("--selection", help="The selection to begin with; by default the only one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8787, show_default=True, type=click.IntRange(0, 65535), help="0: any free one.")
@click.option("--open/--no-open", "open_page", default=None, help="Open a browser; by default on a terminal only.")
def command(store: str, selection: str | None, host: str, port: int, open_page: bool | None) -> None:
    """Look at STORE on a local page: charts, SQL, and every sample with its neighbours. Nothing is written.

    The page answers on this machine only, unless --host says otherwise, and to the address it prints only.

    Example: gradstore explore S --selection g1
    """
    from gradstore.explorer.app import Explorer
    from gradstore.explorer.server import serve

    def tell(address: str) -> None:
        click.echo(address)
        sys.stdout.flush()
        click.echo("this address is the key to the page; Ctrl-C ends it", err=True)
        if host not in ("127.0.0.1", "localhost", "::1"):
            click.echo(f"warning: {host} is reached from other machines, and what is sent is not encrypted", err=True)

    serve(
        Explorer(store, selection),
        host,
        port,
        tell=tell,
        open_page=sys.stdout.isatty() if open_page is None else open_page,
    )
