"""``gradstore explain``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from gradstore.cli.options import json_option, optional_model_options, store_argument

if TYPE_CHECKING:
    from gradstore.pipelines import ModelOptions


@click.command("explain")
@store_argument
@click.argument("sample_id", required=False)
@click.option("--selection", help="Of the rows of this selection, by their weights; and why it has the sample, or not.")
@click.option("--count", default=10, show_default=True, type=click.IntRange(min=1), help="Samples either way.")
@click.option("--question", help="Instead of SAMPLE_ID: a question that need not be in the store; needs --model.")
@click.option("--choice", "choices", multiple=True, help="An option of a multiple-choice question (repeatable).")
@click.option("--checkpoint", "checkpoints", multiple=True, help="With --question: its folder (repeatable).")
@click.option("--probe", help="Which probe, where there are several.")
@click.option("--recipe", help="Which recipe of gradients, where there are several.")
@optional_model_options
@json_option
def command(
    store: str,
    sample_id: str | None,
    selection: str | None,
    count: int,
    question: str | None,
    choices: tuple[str, ...],
    checkpoints: tuple[str, ...],
    probe: str | None,
    recipe: str | None,
    options: ModelOptions | None,
    as_json: bool,
) -> None:
    """Show which training samples push a question towards refusing, and which against.

    The beginning of a SAMPLE_ID is enough. Example: gradstore explain S 4ddfc88c --selection grait
    """
    from gradstore.pipelines.explain import explain
    from gradstore.pipelines.sources import Sources
    from gradstore.store import GradientStore

    if (sample_id is None) == (question is None):
        raise click.UsageError("give either SAMPLE_ID or --question")
    opened, sources = GradientStore.open(store), Sources(probe, recipe)
    if sample_id is not None:
        found = explain(opened, sample_id, selection, count, sources)
    else:
        text = (question or "").strip()
        if not text or options is None or not checkpoints:
            raise click.UsageError("--question needs a text, and --model and --checkpoint to compute its gradient")
        from gradstore.pipelines.explain_question import explain_question

        found = explain_question(opened, options, checkpoints, text, choices, selection, count, sources)
    click.echo(json.dumps(found, ensure_ascii=False) if as_json else "\n".join(_lines(found)))


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    sample = found["sample"]
    yield sample["question"]
    yield f"  {sample['sample_id']}"
    if sample.get("correctness") is not None:
        yield (
            f"  {sample['knowledge']}: correctness {sample['correctness']:.2f}, certainty "
            f"{_number(sample['certainty'])}; the answer is {sample['answer']!r}"
        )
    means = ", ".join(f"{side} {value:+.3f}" for side, value in found["influence"].items())
    yield f"  its refusal gradient beside those of others, mean cosine: {means}"
    sides = ", ".join(f"{n} {side}" for side, n in found["sides"].items())
    yield (
        f"  mean push of {sides}, a unit of weight: {_number(found['net'])}"
        if found["net"] is not None
        else "  nothing pushes it"
    )
    for title, rows in (("towards refusing", found["towards"]), ("against", found["against"])):
        yield ""
        yield f"{title}:" if rows else f"{title}: none"
        for r in rows:
            weight = "" if found["selection"] is None and r["weight"] == 1 else f" × weight {r['weight']:.3f}"
            trained = "refused" if r["response"] == "refusal" else f"answered {r['answer']!r}"
            yield f"  {r['push']:+.3f}  cosine {r['similarity']:+.3f}{weight}  {r['sample_id'][:8]}  {r['question']}"
            yield f"          {r['knowledge']}, {trained}"
    if found["selection"] is not None:
        yield ""
        yield from _chosen(found["selection"])


def _chosen(row: Mapping[str, Any]) -> Iterator[str]:
    asked = ", ".join(f"{k} {v}" for k, v in row["settings"].items() if v is not None)
    yield f"selection {row['name']} ({asked}): {row['reason']}"
    if row.get("rank") is not None:
        ranked = f"  {row['knowledge']}, rank {row['rank']}, score {_number(row['score'])}, weight {row['weight']:.3f}"
        yield f"{ranked}; says {row['target_text']!r}"
    elif row.get("knowledge"):
        yield f"  {row['knowledge']}, I_ref {_number(row['i_ref'])}, I_over {_number(row['i_over'])}"
    for key, words in (("displaces", "in its place would be"), ("displaced_by", "the last that was taken is")):
        if (other := row.get(key)) is not None:
            yield f"  {words} {other['sample_id'][:8]}  {other['question']}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
