"""``gradstore demo``."""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any

import click

from gradstore.cli.options import json_option, progress

COLUMNS = {
    "correct": "P_c",
    "wrong": "P_w",
    "refused": "P_r",
    "ths": "THS",
    "over_refusal": "over-refusal",
    "refused_often": "refused: often",
    "refused_rarely": "rarely",
    "refused_never": "never seen",
}


@click.command("demo")
@click.argument("folder", default="demo", type=click.Path())
@json_option
def command(folder: str, as_json: bool) -> None:
    """Pretrain a small model that knows some invented people, and teach it to say when it doesn't know.

    Everything goes to FOLDER (default: demo), to be explored afterwards.
    Example: gradstore demo
    """
    from gradstore.pipelines.lab.demo import demo

    with progress() as bar:
        result = demo(folder, progress=bar)
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo("\nWhat the model knows of the training questions, by how often pretraining showed them:\n")
    click.echo(f"  {'seen':<8} {'questions':>9} {'known':>6} {'unknown':>8}")
    for row in result["confusion"]:
        click.echo(f"  {row['exposure']:<8} {row['questions']:>9} {row['known']:>6} {row['unknown']:>8}")
    click.echo("\nAfter fine-tuning on each selection, asked about people it was not tuned on")
    click.echo("(mean ± standard deviation over the SFT seeds; shares of all questions, over-refusal of known ones):\n")
    click.echo("  " + f"{'':<9}" + "".join(f"{title:>16}" for title in COLUMNS.values()))
    for row in result["rows"]:
        click.echo(f"  {row['method']:<9}" + "".join(f"{_cell(row, key):>16}" for key in COLUMNS))
    program = "gradstore" if shutil.which("gradstore") else sys.argv[0]
    click.echo(f"\nNext: {program} info {result['store']}")
    click.echo(
        f'      {program} query {result["store"]} "SELECT s.question, x.i_ref, x.weight FROM selections x '
        "JOIN samples s ON s.sample_id = x.sample_id WHERE x.selection = 'grait' AND x.knowledge = 'unknown' "
        'AND x.rank IS NOT NULL ORDER BY x.rank LIMIT 10"'
    )


def _cell(row: dict[str, Any], key: str) -> str:
    if row.get(key) is None:
        return "–"
    spread = row.get(f"{key}_spread")
    return f"{row[key]:.3f}" + (f" ± {spread:.3f}" if spread is not None else "")
