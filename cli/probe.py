"""``gradstore probe``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gradstore.cli.options import (
    device_names,
    devices_option,
    json_option,
    model_options,
    probe_options,
    reporting,
    shard_option,
    show,
    store_argument,
)

if TYPE_CHECKING:
    from gradstore.pipelines import ModelOptions
    from gradstore.pipelines.probe import ProbeSettings


@click.command("probe")
@store_argument
@model_options
@probe_options
@click.option("--checkpoint", type=click.Path(), help="Probe the model with this adapter (knowledge flow).")
@click.option("--import", "import_file", type=click.Path(), help="Outputs made elsewhere: JSON lines by sample_id.")
@click.option(
    "--role", type=click.Choice(["train", "demo", "test"]), default="train", show_default=True, help="Which samples."
)
@devices_option
@shard_option
@json_option
def command(
    store: str,
    options: ModelOptions,
    probe_settings: ProbeSettings,
    checkpoint: str | None,
    import_file: str | None,
    role: str,
    devices: str | None,
    shard: str | None,
    as_json: bool,
) -> None:
    """Measure correctness and certainty of every sample in STORE.

    Example: gradstore probe S --model meta-llama/Llama-3.1-8B-Instruct
    """
    from gradstore.pipelines.import_probe import import_probe
    from gradstore.pipelines.probe import probe, probe_on
    from gradstore.pipelines.shards import Shard
    from gradstore.store import GradientStore

    if import_file and checkpoint:
        raise click.UsageError("--import and --checkpoint exclude each other")
    opened = GradientStore.open(store)
    if import_file:
        show(import_probe(opened, import_file, options, probe_settings, role=role), as_json)
        return
    if devices and shard:
        raise click.UsageError("--devices makes shards of its own: leave out --shard")
    with reporting() as (bar, tell):
        if devices:
            names = device_names(devices)
            counts = probe_on(names, store, options, probe_settings, checkpoint, role, progress=bar, tell=tell)
        else:
            part = Shard.parse(shard) if shard else Shard()
            counts = probe(opened, options, probe_settings, checkpoint=checkpoint, role=role, shard=part, progress=bar)
    show(counts, as_json)
