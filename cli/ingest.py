"""``gradstore ingest``."""

import click

from gradstore.cli.options import field_mapping, json_option, show, store_argument


@click.command("ingest")
@store_argument
@click.argument("files", nargs=-1, required=True)
@click.option("--preset", required=True, help="mmlu, arc, nq, triviaqa or qa (any file with question and answer).")
@click.option("--role", default="train", show_default=True, help="train, demo or test; select touches only train.")
@click.option("--limit", type=click.IntRange(min=1), help="Keep the first N samples.")
@click.option("--field", "fields", multiple=True, metavar="NAME=COLUMN", help="For qa: where a field is (repeatable).")
@click.option("--split", help="Name of the split; chooses it in a data set that has several.")
@json_option
def command(
    store: str,
    files: tuple[str, ...],
    preset: str,
    role: str,
    limit: int | None,
    fields: tuple[str, ...],
    split: str | None,
    as_json: bool,
) -> None:
    """Read FILES (files, folders, or a Hugging Face data set) into STORE.

    Example: gradstore ingest S nq/dev.json --preset nq
    """
    from gradstore.pipelines.ingest import ingest

    mapping = field_mapping(fields)
    show(ingest(store, files, preset=preset, role=role, limit=limit, fields=mapping, split=split), as_json)
