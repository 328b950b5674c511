"""``gradstore diagnose``."""

from __future__ import annotations

from typing import Any

import click

from gradstore.cli.options import json_option, model_settings, progress, show, store_argument


@click.command("diagnose")
@store_argument
@click.option("--selection", help="Conflicts of this selection: refusals beside kept answers (CRSS).")
@click.option("--model", help="Compare hidden states of this model, as CRaFT; without it, refusal gradients.")
@model_settings
@click.option("--flow", "flow_too", is_flag=True, help="What rehearsal did to knowledge (needs probe --checkpoint).")
@click.option("--recipe", help="Which recipe of gradients, where there are several.")
@click.option("--checkpoint", "checkpoints", multiple=True, help="Checkpoint id, where there are several (repeatable).")
@json_option
def command(
    store: str,
    options: Any,
    selection: str | None,
    model: str | None,
    flow_too: bool,
    recipe: str | None,
    checkpoints: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say why a selection may fail: conflicts between refusals and answers, and how knowledge flowed in rehearsal.

    Example: gradstore diagnose S --selection g --flow
    """
    from dataclasses import replace

    from gradstore.pipelines.diagnose import conflicts, flow
    from gradstore.pipelines.sources import Sources
    from gradstore.store import GradientStore

    if not selection and not flow_too:
        raise click.UsageError("nothing to diagnose: give --selection NAME, --flow, or both")
    opened = GradientStore.open(store)
    found: dict[str, Any] = {}
    sources = Sources(recipe=recipe, checkpoints=checkpoints)
    if selection:
        asked = replace(options, model=model) if model else None
        with progress() as bar:
            found |= conflicts(opened, selection, asked, sources, progress=bar)
    if flow_too:
        found["flow"] = flow(opened, sources)
    if as_json:
        show(found, as_json=True)
        return
    pairs, flowed = found.pop("closest", []), found.pop("flow", None)
    show(found, as_json=False)
    for p in pairs:
        click.echo(f"{p['cosine']:.3f}  refuses {p['refusal_question']!r}, keeps {p['answer_question']!r}")
    if flowed:
        _show_flow(flowed)


def _show_flow(flowed: dict[str, Any]) -> None:
    """The histogram as a table; bins that hold nothing are left out."""
    edges = flowed.pop("edges")
    counts = zip(edges[:-1], edges[1:], flowed.pop("known"), flowed.pop("unknown"), strict=True)
    click.echo(f"\n{'change of correctness':>22} {'known':>7} {'unknown':>8}")
    for low, high, known, unknown in counts:
        if known or unknown:
            click.echo(f"{low:>+11.2f} … {high:>+8.2f} {known:>7} {unknown:>8}")
    show(flowed, as_json=False)
