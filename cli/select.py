"""``gradstore select``."""

import click

from gradstore.cli.options import json_option, progress, show, store_argument
from gradstore.methods import METHODS, RULES, WEIGHTS


class ListsMethods(click.Command):
    """A command whose help ends with every method, rule and weight rule there is."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the three lists after the options."""
        named = [(n, f"{m.summary} [{m.known} / {m.unknown} / {m.weights}]") for n, m in METHODS.items()]
        listed = {
            "Methods [known rule / unknown rule / weights]": named,
            "Rules, for --known-rule and --unknown-rule": list(RULES.items()),
            "Weights": list(WEIGHTS.items()),
        }
        for title, rows in listed.items():
            with formatter.section(title):
                formatter.write_dl(rows)


@click.command("select", cls=ListsMethods)
@store_argument
@click.option("--name", required=True, help="Name of the selection.")
@click.option("--method", default="grait", show_default=True, help="One of the methods below.")
@click.option("--known", default=4000, show_default=True, help="Samples that keep their answer.")
@click.option("--unknown", default=1000, show_default=True, help="Samples rewritten to a refusal.")
@click.option("--known-rule", help="Instead of the method's.")
@click.option("--unknown-rule", help="Instead of the method's.")
@click.option("--threshold", default=0.5, show_default=True, help="Correctness that divides known from unknown.")
@click.option("--boundary", type=click.Choice(["known", "unknown", "drop"]), help="Side of the threshold itself.")
@click.option("--seed", default=0, show_default=True, help="Of draws and ties.")
@click.option("--weights", type=click.Choice(list(WEIGHTS)), help="Instead of the method's.")
@click.option("--temperature", type=float, help="τ of the weights, in units of influence.")
@click.option("--ess", type=float, help="Effective sample size that τ is to reach (default: half of the unknowns).")
@click.option("--weight-total", type=float, help="Sum of the unknowns' weights (default: their number).")
@click.option("--cap", type=float, help="Largest weight.")
@click.option("--penalty", type=float, help="λ: how much of the known side's influence is taken off.")
@click.option("--quota", help="subject, or clusters:N: each stratum in proportion.")
@click.option("--refusals", type=click.Choice(["one", "pool"]), help="One refusal text, or one of many a sample.")
@click.option("--target", help="less: SQL condition on samples, or @FILE of sample ids.")
@click.option("--reference", is_flag=True, help="What the released code does, bug for bug.")
@click.option("--strict", is_flag=True, help="Fail if there are fewer candidates than asked for.")
@click.option("--probe", help="Which probe, where there are several.")
@click.option("--recipe", help="Which recipe of gradients, where there are several.")
@click.option("--checkpoint", "checkpoints", multiple=True, help="Checkpoint id (default: all; repeatable).")
@click.option("--replace", is_flag=True, help="Overwrite a selection of this name.")
@json_option
def command(
    store: str,
    name: str,
    probe: str | None,
    recipe: str | None,
    checkpoints: tuple[str, ...],
    replace: bool,
    as_json: bool,
    **given: object,
) -> None:
    """Choose which unknown samples teach refusing and which known ones are kept, and weigh them.

    Example: gradstore select S --method grait --known 4000 --unknown 1000 --name g
    """
    from dataclasses import asdict

    from gradstore.pipelines.select import Sources, select
    from gradstore.selection import Settings
    from gradstore.store import GradientStore

    sources = Sources(probe, recipe, checkpoints)
    settings = Settings(**given)  # type: ignore[arg-type]
    with progress() as bar:
        result = select(GradientStore.open(store), name, settings, sources, replace=replace, progress=bar)
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)
    triple = result.method
    told: dict[str, object] = {
        "selection": result.name,
        "method": settings.method + (" (reference)" if settings.reference else ""),
        "known rule": triple.known,
        "unknown rule": triple.unknown,
        "weights": triple.weights,
        **result.counts,
        "temperature": result.temperature,
        "effective sample size": round(result.effective_size, 2),
        "effective sample size of the known": round(result.effective_size_known, 2),
    }
    if as_json:
        told |= {"settings": {**asdict(settings), "boundary": triple.boundary}, "warnings": result.warnings}
    show(told, as_json)
