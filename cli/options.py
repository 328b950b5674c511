"""Options that several commands share, and how results and progress are shown."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
store_argument = click.argument("store")


def model_options(command: Callable) -> Callable:
    """Adds --model and how to run it; the command gets one ``options`` (ModelOptions)."""
    options = [
        click.option("--model", required=True, help="Model folder or hub id."),
        click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 …"),
        click.option(
            "--dtype", default="auto", show_default=True, type=click.Choice(["auto", "float32", "bfloat16", "float16"])
        ),
        click.option("--attn", default="sdpa", show_default=True, help="Attention implementation."),
        click.option("--revision", help="Commit or tag of a hub model."),
        click.option(
            "--max-length",
            default=2048,
            type=click.IntRange(min=2),
            show_default=True,
            help="Tokens; longer samples are set aside.",
        ),
        click.option(
            "--batch-tokens",
            default=16_384,
            type=click.IntRange(min=1),
            show_default=True,
            help="Padded tokens a batch.",
        ),
    ]

    @functools.wraps(command)
    def wrapper(
        model: str,
        device: str,
        dtype: str,
        attn: str,
        revision: str | None,
        max_length: int,
        batch_tokens: int,
        **rest: Any,
    ) -> Any:
        from gradstore.pipelines import ModelOptions

        return command(options=ModelOptions(model, device, dtype, attn, revision, max_length, batch_tokens), **rest)

    for option in reversed(options):
        wrapper = option(wrapper)
    return wrapper


def probe_options(command: Callable) -> Callable:
    """Adds the settings of a probe; the command gets one ``probe_settings``."""
    options = [
        click.option("--template", default="basic", show_default=True, help="Prompt template."),
        click.option(
            "--shots",
            default=0,
            type=click.IntRange(min=0),
            show_default=True,
            help="Demos, drawn from samples of role demo.",
        ),
        click.option(
            "--samples",
            default=10,
            type=click.IntRange(min=1),
            show_default=True,
            help="Answers drawn for an open question.",
        ),
        click.option("--temperature", default=1.0, show_default=True, help="Of the draws."),
        click.option(
            "--max-new-tokens", default=32, type=click.IntRange(min=1), show_default=True, help="Tokens of an answer."
        ),
        click.option("--seed", default=0, show_default=True, help="Of the draws."),
        click.option("--certainty", default="agreement", show_default=True, type=click.Choice(["agreement", "cosine"])),
        click.option("--embedder", help="Sentence-transformer for --certainty cosine (default all-MiniLM-L6-v2)."),
    ]

    @functools.wraps(command)
    def wrapper(
        template: str,
        shots: int,
        samples: int,
        temperature: float,
        max_new_tokens: int,
        seed: int,
        certainty: str,
        embedder: str | None,
        **rest: Any,
    ) -> Any:
        from gradstore.pipelines.probe import ProbeSettings

        extra = {"embedder": embedder} if embedder else {}
        settings = ProbeSettings(template, shots, samples, temperature, max_new_tokens, seed, certainty, **extra)
        return command(probe_settings=settings, **rest)

    for option in reversed(options):
        wrapper = option(wrapper)
    return wrapper


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A callback (stage, done, total) that draws bars with rate and time left on a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, rate="")
            speed = bars.tasks[tasks[stage]].speed
            bars.update(tasks[stage], completed=done, total=total, rate=f"{speed:.0f}/s" if speed else "")

        yield show


def show(result: Mapping[str, Any], as_json: bool) -> None:
    """Print one result: JSON, or a line a value."""
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False))
        return
    width = max((len(k) for k in result), default=0)
    for key, value in result.items():
        click.echo(f"{key:<{width}}  {value}")


def field_mapping(pairs: tuple[str, ...]) -> dict[str, str] | None:
    """``question=column`` pairs as a mapping."""
    if not pairs:
        return None
    split = [p.split("=", 1) for p in pairs]
    if bad := [p for p, parts in zip(pairs, split, strict=True) if len(parts) != 2]:
        raise click.UsageError(f"--field {bad[0]}: expected NAME=COLUMN, for example --field question=query")
    return dict(split)
