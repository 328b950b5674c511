"""The command line: one command, one library call. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import importlib
import os
import sys
import warnings

import click

from gradstore import __version__
from gradstore.errors import GradstoreError, MissingExtra

# command → (module of gradstore.cli, one line of help); the module is imported when the command is named.
COMMANDS = {
    "demo": ("demo", "The whole story on a model trained on the spot: no network, no GPU."),
    "ingest": ("ingest", "Read question files into a store, which is made if need be."),
    "probe": ("probe", "Measure what a model knows: correctness and certainty of every sample."),
    "warmup": ("warmup", "Rehearse what the model knows: LoRA checkpoints with their Adam state."),
    "register": ("register", "Record a checkpoint of Hugging Face's Trainer."),
    "extract": ("extract", "Write the gradients of both responses of every sample."),
    "build": ("build", "Ingest, probe, warm up and extract, in order; resumes where it stopped."),
    "select": ("select", "Choose and weigh the refusal-aware training set."),
    "export": ("export", "Write a selection for TRL or xtuner."),
    "query": ("query", "Ask the store in SQL: one SELECT over its tables and views."),
    "explain": ("explain", "Which samples push one sample towards refusing, and which against."),
    "report": ("report", "One self-contained HTML file: what is in a store, and in a selection."),
    "explore": ("explore", "The same charts, SQL and every sample, on a local page."),
    "evaluate": ("evaluate", "Ask a model the test questions and judge its answers."),
    "diagnose": ("diagnose", "Why a selection may fail: conflicts, and how knowledge flowed in rehearsal."),
    "info": ("info", "What is in a store: tables, runs, selections."),
    "doctor": ("doctor", "Is a model's arithmetic sound: batching, padding, attention, precision."),
    "gc": ("gc", "Remove what can be made again: the caches of vectors."),
    "lab": ("lab", "Models with a known boundary of knowledge, trained on the spot."),
}


# package → (its name on the package index, the extra that brings it)
EXTRAS = {
    "torch": ("torch", "extract"),
    "transformers": ("transformers", "extract"),
    "peft": ("peft", "extract"),
    "safetensors": ("safetensors", "extract"),
    "accelerate": ("accelerate", "extract"),
    "tokenizers": ("tokenizers", "extract"),
    "bitsandbytes": ("bitsandbytes", "quant"),
    "datasets": ("datasets", "hf"),
    "trl": ("trl", "trl"),
    "altair": ("altair", "report"),
    "vl_convert": ("vl-convert-python", "report"),
    "jinja2": ("jinja2", "report"),
    "starlette": ("starlette", "explore"),
    "uvicorn": ("uvicorn", "explore"),
}


class LazyGroup(click.Group):
    """A group whose commands are modules, imported only when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return importlib.import_module(f"gradstore.cli.{COMMANDS[name][0]}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gradstore")
@click.option("--debug", is_flag=True, help="Show the traceback of an error (anywhere on the line).")
def cli(debug: bool) -> None:
    """Build fine-tuning data that teaches a model to say "I don't know" — only where it doesn't.

    STORE is a path or URI. Results go to stdout, progress and messages to stderr.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: exit code 0, 1 for a failure (one line), 2 for wrong usage, 130 for Ctrl-C."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.warnoptions:  # libraries warn their developers; -W shows it
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", message="polars-pylance: Lance rejected")  # Polars filters, or says why not
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    try:
        cli.main(args=[a for a in given if a != "--debug"], prog_name="gradstore", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted: a stage of a store goes on where it stopped, by the same command", err=True)
        sys.exit(130)
    except GradstoreError as error:
        if debug:
            raise
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if debug or error.name not in EXTRAS:
            raise
        click.echo(f"error: {MissingExtra(*EXTRAS[error.name], 'this command')}", err=True)
        sys.exit(1)
    except OSError as error:  # of the machine rather than of the program: a full disk, a missing permission
        if debug:
            raise
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
