"""``gradstore evaluate``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from gradstore.cli.numbers import difference_lines, disagreement_lines, metric_lines, transition_lines
from gradstore.cli.options import WHOLE, field_mapping, json_option, model_settings, reporting, store_argument

if TYPE_CHECKING:
    from gradstore.pipelines import ModelOptions
    from gradstore.pipelines.questions import QuestionFile

Tell = Callable[[str], None]


@click.command("evaluate")
@store_argument
@click.option("--model", help="Model folder or hub id; without it, a stored evaluation is measured anew.")
@model_settings
@click.option("--name", help="Name of the evaluation.")
@click.option("--adapter", type=click.Path(), help="Tuned adapter; without it the model itself.")
@click.option("--template", help="Prompt (default: refuse with an adapter, basic without).")
@click.option("--data", multiple=True, help="File of test questions like those trained on (repeatable).")
@click.option("--preset", "presets", multiple=True, help="Of the --data files: once for all, or once each.")
@click.option("--ood", multiple=True, help="File of test questions out of distribution (repeatable).")
@click.option("--ood-preset", "ood_presets", multiple=True, help="Of the --ood files (default: that of --preset).")
@click.option("--limit", type=WHOLE, help="Keep the first N questions of each file.")
@click.option("--field", "fields", multiple=True, metavar="NAME=COLUMN", help="For qa: where a field is (repeatable).")
@click.option(
    "--role",
    type=click.Choice(["train", "demo", "test"]),
    default="test",
    show_default=True,
    help="Without files: which samples of the store.",
)
@click.option(
    "--against", help="Evaluation of the initial model: adds THS, over-refusal, refusal precision and recall."
)
@click.option("--selection", help="What the adapter was trained on, if it is no registered checkpoint.")
@click.option("--refusal-texts", type=click.Path(), help="File of further phrases that refuse, one a line.")
@click.option("--max-new-tokens", default=32, type=WHOLE, show_default=True, help="Tokens of an answer.")
@click.option("--seed", default=0, show_default=True, help="Of the resampled questions behind the intervals.")
@click.option("--compare", nargs=2, metavar="A B", help="Instead: B minus A, two stored evaluations of tuned models.")
@click.option("--disagreements", "list_them", is_flag=True, help="List the first 20 on which the two judges differ.")
@json_option
def command(
    store: str,
    options: ModelOptions,
    model: str | None,
    name: str | None,
    against: str | None,
    seed: int,
    compare: tuple[str, str] | None,
    list_them: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Ask a model the test questions, greedily, judge what it says, and measure it with 95 % intervals.

    Example: gradstore evaluate S --model M --adapter A --name tuned --against init --data val --ood arc --preset mmlu
    --ood-preset arc
    """
    if compare:
        if not against or model:
            raise click.UsageError("--compare A B takes --against INIT and no --model: it reads stored evaluations")
        _compare(store, *compare, against, seed, as_json)
        return
    if not name:
        raise click.UsageError("missing option --name: the evaluation is stored under it")
    from gradstore.pipelines.metrics import report
    from gradstore.store import GradientStore

    warnings: list[str] = []
    if model:
        _ask(store, replace(options, model=model), name, warnings.append, **asked)
    result = report(GradientStore.open(store), name, against, seed=seed, tell=warnings.append)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        click.echo(json.dumps(result | {"warnings": warnings}, ensure_ascii=False))
        return
    lines = metric_lines(result["metrics"])
    lines += transition_lines(result["transitions"]) if against else []
    differ = f"the judge and the literature's judge differ on {result['judges_disagree']} of {result['n']} questions"
    listed = disagreement_lines(result["disagreements"]) if list_them else []
    click.echo("\n".join([*lines, "", differ, *listed]))


def _ask(
    store: str,
    options: ModelOptions,
    name: str,
    tell: Tell,
    *,
    adapter: str | None,
    template: str | None,
    data: Sequence[str],
    presets: Sequence[str],
    ood: Sequence[str],
    ood_presets: Sequence[str],
    limit: int | None,
    fields: tuple[str, ...],
    refusal_texts: str | None,
    **settings: Any,
) -> None:
    """Read the files there are, ask the model, store what it said."""
    from gradstore.models.loading import check_model
    from gradstore.pipelines.evaluate import evaluate
    from gradstore.pipelines.questions import ingest_questions, read_refusal_texts
    from gradstore.pipelines.work import read_exposure
    from gradstore.store import GradientStore

    files = [*_files(data, presets, "id", "--preset"), *_files(ood, ood_presets or presets[:1], "ood", "--ood-preset")]
    texts = read_refusal_texts(refusal_texts) if refusal_texts else []
    mapping = field_mapping(fields)
    questions = None
    if files:
        check_model(options.model)  # before anything is written
        exposure = read_exposure(options.model)
        questions = ingest_questions(store, files, limit=limit, fields=mapping, exposure=exposure, tell=tell)
    opened = GradientStore.open(store)
    chosen = template or ("refuse" if adapter else "basic")
    with reporting() as (bar, _):
        evaluate(
            opened,
            name,
            options,
            adapter=adapter,
            template=chosen,
            questions=questions,
            refusal_texts=texts,
            progress=bar,
            tell=tell,
            **settings,
        )


def _files(paths: Sequence[str], presets: Sequence[str], distribution: str, option: str) -> list[QuestionFile]:
    from gradstore.pipelines.questions import QuestionFile

    if paths and len(presets) not in (1, len(paths)):
        raise click.UsageError(f"{len(paths)} files and {len(presets)} presets: give {option} once, or once a file")
    each = presets if len(presets) == len(paths) else list(presets) * len(paths)
    return [QuestionFile(path, preset, distribution) for path, preset in zip(paths, each, strict=True)]


def _compare(store: str, a: str, b: str, initial: str, seed: int, as_json: bool) -> None:
    from gradstore.pipelines.metrics import differences
    from gradstore.store import GradientStore

    warnings: list[str] = []
    rows = differences(GradientStore.open(store), a, b, initial, seed=seed, tell=warnings.append)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        result = {"a": a, "b": b, "against": initial, "differences": rows, "warnings": warnings}
        click.echo(json.dumps(result, ensure_ascii=False))
        return
    click.echo("\n".join(difference_lines(rows, a, b)))
