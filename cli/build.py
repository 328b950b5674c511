"""``gradstore build``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gradstore.cli.options import (
    FEATURES,
    field_mapping,
    json_option,
    model_options,
    probe_options,
    progress,
    show,
    store_argument,
)

if TYPE_CHECKING:
    from gradstore.pipelines import ModelOptions
    from gradstore.pipelines.probe import ProbeSettings


@click.command("build")
@store_argument
@click.option("--data", "files", multiple=True, required=True, help="Question file (repeatable).")
@click.option("--preset", required=True, help="mmlu, arc, nq, triviaqa or qa.")
@click.option("--limit", type=click.IntRange(min=1), help="Keep the first N samples.")
@click.option("--field", "fields", multiple=True, metavar="NAME=COLUMN", help="For qa: where a field is (repeatable).")
@click.option("--split", help="Split of a data set that has several.")
@model_options
@probe_options
@click.option("--work", type=click.Path(), help="Folder for checkpoints (default STORE.work).")
@click.option("--rehearsal", type=click.IntRange(min=1), help="Warm-up samples (default 1000).")
@click.option("--epochs", type=click.IntRange(min=1), help="Warm-up epochs (default 4).")
@click.option("--lr", type=float, help="Warm-up learning rate (default 2e-4).")
@click.option("--feature", type=click.Choice(FEATURES), help="Gradient feature (default adam).")
@click.option("--dim", type=click.IntRange(min=1), help="Floats a stored vector (default 8192).")
@click.option("--all-checkpoints", is_flag=True, help="Extract at every epoch, not only the last.")
@json_option
def command(
    store: str,
    files: tuple[str, ...],
    preset: str,
    limit: int | None,
    fields: tuple[str, ...],
    split: str | None,
    options: ModelOptions,
    probe_settings: ProbeSettings,
    work: str | None,
    rehearsal: int | None,
    epochs: int | None,
    lr: float | None,
    feature: str | None,
    dim: int | None,
    all_checkpoints: bool,
    as_json: bool,
) -> None:
    """Everything up to the gradients. Run it again after a crash: it goes on where it stopped.

    Example: gradstore build S --data nq/dev.json --preset nq --model M
    """
    from gradstore.pipelines.build import build, default_extract, default_warmup

    with progress() as bar:
        counts = build(
            store,
            files,
            options,
            preset=preset,
            limit=limit,
            fields=field_mapping(fields),
            split=split,
            work=work,
            all_checkpoints=all_checkpoints,
            probe_settings=probe_settings,
            warmup_settings=default_warmup(**_given(epochs=epochs, learning_rate=lr)),
            extract_settings=default_extract(**_given(feature=feature, dim=dim)),
            rehearsal=rehearsal,
            progress=bar,
        )
    show(counts, as_json)


def _given(**settings: Any) -> dict[str, Any]:
    return {k: v for k, v in settings.items() if v is not None}
