"""``gradstore doctor``."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from gradstore.cli.options import json_option, model_settings, reporting

if TYPE_CHECKING:
    from gradstore.pipelines import ModelOptions


@click.command("doctor")
@click.argument("model")
@model_settings
@click.option("--checkpoint", type=click.Path(), help="Adapter folder; default: a random LoRA.")
@click.option("--lora-r", default=8, show_default=True, help="Rank of the random LoRA.")
@click.option("--targets", default="all-linear", show_default=True, help="Modules of the random LoRA.")
@json_option
def command(
    model: str, options: ModelOptions, checkpoint: str | None, lora_r: int, targets: str, as_json: bool
) -> None:
    """Compare the gradients of MODEL across batching, padding, attention and precision, on a few samples.

    Example: gradstore doctor meta-llama/Llama-3.1-8B-Instruct --targets q_proj,v_proj
    """
    from gradstore.pipelines.doctor import doctor

    with reporting() as (_, tell):
        findings = doctor(replace(options, model=model), checkpoint, r=lora_r, targets=targets, tell=tell)
    if as_json:
        rows = [{k: None if v != v or v == float("inf") else v for k, v in f.items()} for f in findings]
        click.echo(json.dumps(rows, ensure_ascii=False))
        return
    width = max(len(f"{f['check']}: {f['setting']}") for f in findings)
    for f in findings:
        label = f"{f['check']}: {f['setting']}".ljust(width)
        numbers = (
            f"error {f['error']:.1e}, cosine {f['cosine']:.6f} against {f['against']}" if f["against"] else f["note"]
        )
        click.echo(f"{f['verdict']:<12} {label}  {numbers}".rstrip())
