"""``gradstore select``."""

import click

from gradstore.cli.options import json_option, progress, show, store_argument


@click.command("select")
@store_argument
@click.option("--name", required=True, help="Name of the selection.")
@click.option("--method", default="grait", show_default=True, help="grait, cor-rait or random.")
@click.option("--known", default=4000, show_default=True, help="Samples that keep their answer.")
@click.option("--unknown", default=1000, show_default=True, help="Samples rewritten to a refusal.")
@click.option("--threshold", default=0.5, show_default=True, help="Correctness that divides known from unknown.")
@click.option("--boundary", default="known", show_default=True, type=click.Choice(["known", "unknown", "drop"]))
@click.option("--seed", default=0, show_default=True, help="Of draws and ties.")
@click.option("--weights", type=click.Choice(["intent", "reference", "uniform"]), help="Default: the method's own.")
@click.option("--temperature", type=float, help="τ of the weights, in units of influence.")
@click.option("--ess", type=float, help="Effective sample size that τ is to reach (default: half of the unknowns).")
@click.option("--weight-total", type=float, help="Sum of the unknowns' weights (default: their number).")
@click.option("--cap", type=float, help="Largest weight.")
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
    **settings: object,
) -> None:
    """Choose which unknown samples teach refusing and which known ones are kept, and weigh them.

    Example: gradstore select S --method grait --known 4000 --unknown 1000 --name g
    """
    from gradstore.pipelines.select import Sources, select
    from gradstore.selection import Settings
    from gradstore.store import GradientStore

    sources = Sources(probe, recipe, checkpoints)
    chosen = Settings(**settings)  # type: ignore[arg-type]
    with progress() as bar:
        result = select(GradientStore.open(store), name, chosen, sources, replace=replace, progress=bar)
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)
    show(
        {
            "selection": result.name,
            **result.counts,
            "temperature": result.temperature,
            "effective sample size": round(result.effective_size, 2),
            **({"warnings": result.warnings} if as_json else {}),
        },
        as_json,
    )
