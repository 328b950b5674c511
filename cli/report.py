"""``gradstore report``."""

from __future__ import annotations

from pathlib import Path

import click

from gradstore.cli.options import json_option, show, store_argument


@click.command("report")
@store_argument
@click.argument("name", required=False)
@click.option("--out", default="report.html", show_default=True, type=click.Path(dir_okay=False), help="File to write.")
@click.option("--png", "folder", type=click.Path(file_okay=False), help="Also write each figure as PNG to this folder.")
@json_option
def command(store: str, name: str | None, out: str, folder: str | None, as_json: bool) -> None:
    """Write one self-contained HTML file on STORE and the selection NAME (default: the only one; of several, none).

    Example: gradstore report S g --out report.html
    """
    from gradstore.pipelines.report import report, write_pngs
    from gradstore.store import GradientStore

    opened = GradientStore.open(store)
    html = report(opened, name)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(html, encoding="utf-8")
    told: dict[str, object] = {"report": out, "bytes": len(html.encode())}
    if folder:
        told["figures"] = [str(path) for path in write_pngs(opened, name, Path(folder))]
    show(told, as_json)
