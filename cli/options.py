"""Options that several commands share, and how results and progress are shown."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
store_argument = click.argument("store")


SECONDS_BETWEEN_LINES = 30
WHOLE = click.IntRange(min=1)
FEATURES = ["adam", "adam-delta", "less", "second-moment", "sgd", "sign"]


class BatchTokens(click.ParamType):
    """A whole number, or ``auto`` (None)."""

    name = "integer|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        return None if value == "auto" else WHOLE.convert(value, param, ctx)


MODEL = {
    "model": click.option("--model", required=True, help="Model folder or hub id."),
    "device": click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 …"),
    "dtype": click.option(
        "--dtype", default="auto", show_default=True, type=click.Choice(["auto", "float32", "bfloat16", "float16"])
    ),
    "attention": click.option("--attn", "attention", default="sdpa", show_default=True, help="Implementation."),
    "revision": click.option("--revision", help="Commit or tag of a hub model."),
    "max_length": click.option(
        "--max-length", default=2048, type=WHOLE, show_default=True, help="Tokens; longer samples are set aside."
    ),
    "batch_tokens": click.option(
        "--batch-tokens",
        default=16_384,
        type=BatchTokens(),
        show_default=True,
        help="Padded tokens a batch; auto: extract finds them once and records them.",
    ),
    "load_in_4bit": click.option(
        "--load-in-4bit", is_flag=True, help="Weights as nf4 (QLoRA); needs gradstore[quant]. Recorded in the recipe."
    ),
    "tf32": click.option("--tf32", is_flag=True, help="On CUDA, let float32 products lose 13 bits. Recorded."),
}
shard_option = click.option("--shard", help="Do part I of N only, as I/N: one job each of any scheduler.")
devices_option = click.option("--devices", help="One process a device, as 0,1,2,3 (CUDA) or cpu,cpu.")
PROBE = {
    "template": click.option("--template", default="basic", show_default=True, help="Prompt template."),
    "shots": click.option(
        "--shots", default=0, type=click.IntRange(min=0), show_default=True, help="Demos, from samples of role demo."
    ),
    "n_samples": click.option(
        "--samples", "n_samples", default=10, type=WHOLE, show_default=True, help="Answers drawn for an open question."
    ),
    "temperature": click.option("--temperature", default=1.0, show_default=True, help="Of the draws."),
    "max_new_tokens": click.option(
        "--max-new-tokens", default=32, type=WHOLE, show_default=True, help="Tokens of an answer."
    ),
    "seed": click.option("--seed", default=0, show_default=True, help="Of the draws."),
    "certainty": click.option(
        "--certainty", default="agreement", show_default=True, type=click.Choice(["agreement", "cosine"])
    ),
    "embedder": click.option("--embedder", help="For --certainty cosine (default all-MiniLM-L6-v2)."),
}


def model_options(command: Callable) -> Callable:
    """Adds --model and how to run it; the command gets one ``options`` (ModelOptions)."""

    def make(**given: Any) -> Any:
        from gradstore.pipelines import ModelOptions

        return ModelOptions(**given)

    return _bundle(command, MODEL, "options", make)


def optional_model_options(command: Callable) -> Callable:
    """Adds --model and how to run it; without --model the command gets ``options`` None."""

    def make(**given: Any) -> Any:
        if given["model"] is None:
            return None
        from gradstore.pipelines import ModelOptions

        return ModelOptions(**given)

    without = {k: v for k, v in MODEL.items() if k not in ("model", "attention", "max_length", "batch_tokens")}
    optional = {"model": click.option("--model", help="Model folder or hub id."), **without}
    return _bundle(command, optional, "options", make)


def model_settings(command: Callable) -> Callable:
    """How a model runs, for a command that takes the model itself as its argument."""

    def make(**given: Any) -> Any:
        from gradstore.pipelines import ModelOptions

        return ModelOptions(model="", **given)

    return _bundle(command, {k: v for k, v in MODEL.items() if k != "model"}, "options", make)


def probe_options(command: Callable) -> Callable:
    """Adds the settings of a probe; the command gets one ``probe_settings`` (ProbeSettings)."""

    def make(**given: Any) -> Any:
        from gradstore.pipelines.probe import ProbeSettings

        return ProbeSettings(**{k: v for k, v in given.items() if v is not None})

    return _bundle(command, PROBE, "probe_settings", make)


def _bundle(command: Callable, options: Mapping[str, Callable], name: str, make: Callable) -> Callable:
    """Put ``options`` (parameter → click option) on a command that takes them as one argument called ``name``."""

    @functools.wraps(command)
    def bundled(**given: Any) -> Any:
        own = {parameter: given.pop(parameter) for parameter in options}
        return command(**{name: make(**own)}, **given)

    for option in reversed(list(options.values())):
        bundled = option(bundled)
    return bundled


@contextmanager
def progress() -> Iterator[Any]:
    """A callback (stage, done, total, note) that draws bars on a terminal, and says a line now and then elsewhere."""
    with reporting() as (bar, _):
        yield bar


@contextmanager
def reporting() -> Iterator[tuple[Any, Callable[[str], None]]]:
    """The same, and where remarks go: to stderr, above the bars where there are any."""
    if not sys.stderr.isatty():
        yield _lines(), lambda text: click.echo(text, err=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} {task.fields[note]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int, note: str = "") -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, completed=done, rate="", note="")
            speed = bars.tasks[tasks[stage]].speed
            bars.update(tasks[stage], completed=done, total=total, rate=f"{speed:.0f}/s" if speed else "", note=note)

        yield show, lambda text: bars.console.print(text, markup=False, highlight=False)


def _lines() -> Callable[..., None]:
    """Progress where there is no terminal, as under a scheduler: a line a stage now and then, on stderr."""
    started: dict[str, tuple[float, int]] = {}
    said: dict[str, float] = {}

    def show(stage: str, done: int, total: int, note: str = "") -> None:
        """Say how far a stage is, unless it was said a moment ago."""
        now = time.monotonic()
        since, first = started.setdefault(stage, (now, done))
        if now - said.setdefault(stage, now) < SECONDS_BETWEEN_LINES or done <= first:
            return
        said[stage] = now
        rate = (done - first) / (now - since)
        left = (total - done) / rate
        click.echo(f"{stage}: {done}/{total}, {rate:.1f}/s {note}, about {left / 60:.0f} min left", err=True)

    return show


def show(result: Mapping[str, Any], as_json: bool) -> None:
    """Print one result: JSON, or a line a value."""
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False))
        return
    width = max((len(k) for k in result), default=0)
    for key, value in result.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {'–' if v is None else v}" for k, v in value.items())
        click.echo(f"{key:<{width}}  {value}")


def device_names(text: str) -> list[str]:
    """``0,1`` → cuda:0, cuda:1; ``cpu,cpu`` as it is."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    return [f"cuda:{name}" if name.isdigit() else name for name in names]


def field_mapping(pairs: tuple[str, ...]) -> dict[str, str] | None:
    """``question=column`` pairs as a mapping."""
    return mapping("--field", "NAME=COLUMN, for example --field question=query", pairs) or None


def mapping(option: str, expected: str, pairs: tuple[str, ...]) -> dict[str, str]:
    """``name=value`` pairs of an option as a mapping."""
    split = [p.split("=", 1) for p in pairs]
    if bad := [p for p, parts in zip(pairs, split, strict=True) if len(parts) != 2]:
        raise click.UsageError(f"{option} {bad[0]}: expected {expected}")
    return dict(split)
