"""``gradstore lab``."""

import json

import click

from gradstore.cli.options import json_option, mapping, progress, show


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


@command.command("scoreboard")
@click.argument("out", type=click.Path())
@click.option("--world", "worlds", multiple=True, help="Of the settings file (repeatable; default: all).")
@click.option("--data", multiple=True, metavar="WORLD=FILE", help="The questions of a world (repeatable).")
@click.option("--seeds", default="0-4", show_default=True, help="As 0-4 or 100,101; from 100 on, another model.")
@click.option("--variant", "variants", multiple=True, help="Of the settings file (repeatable; default: its standard).")
@click.option("--all", "every", is_flag=True, help="Every variant of the settings file.")
@click.option("--settings", type=click.Path(), help="Worlds and variants, as TOML (default: those of gradstore).")
@click.option("--candidate", help="What the others are compared with (default: that of the settings file).")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(min=1), help="Processes, one thread each.")
@click.option("--no-figures", is_flag=True, help="Leave out the figures (they need gradstore[lab]).")
@json_option
def scoreboard(
    out: str,
    worlds: tuple[str, ...],
    data: tuple[str, ...],
    seeds: str,
    variants: tuple[str, ...],
    every: bool,
    settings: str | None,
    candidate: str | None,
    workers: int,
    no_figures: bool,
    as_json: bool,
) -> None:
    """Train on every method's selection, evaluate, and compare: methods × seeds × worlds, into OUT.

    Resumes: a trial that is there is not run again. OUT gets board.json, board.md, figures, and trials/*.json.
    Example: gradstore lab scoreboard S --world people --seeds 0-4
    """
    from gradstore.pipelines.lab.scoreboard import configuration, run, variants_of, worlds_of
    from gradstore.pipelines.lab.scoreboard import scoreboard as write

    found = configuration(settings)
    chosen = variants_of(found, list(found["variants"]) if every else variants)
    candidate = candidate or found.get("candidate") or list(chosen)[-1]
    places = worlds_of(found, worlds, mapping("--data", "WORLD=FILE, for example --data nq=nq/dev.json", data))
    with progress() as bar:
        paths = run(out, places, _numbers(seeds), chosen, workers=workers, progress=bar)
    board = write(out, paths, candidate, figures=not no_figures)
    if as_json:
        click.echo(json.dumps(board, ensure_ascii=False))
        return
    with open(f"{out}/board.md", encoding="utf-8") as file:
        click.echo(file.read())


def _numbers(text: str) -> list[int]:
    """``0-4`` or ``100,101`` as numbers."""
    try:
        ends = [[int(n) for n in part.split("-")] for part in text.split(",")]
        return [n for part in ends for n in range(part[0], part[-1] + 1)]
    except ValueError as error:
        raise click.UsageError(f"--seeds {text}: expected numbers, as 0-4 or 100,101") from error
