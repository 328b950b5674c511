"""The documents do not lie: commands parse, names exist, links lead somewhere."""

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

from gradstore.cli.main import COMMANDS, cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(p.read_text() for p in PAGES)
SHELL = [*re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL), (ROOT / "examples" / "real_model.sh").read_text()]


def documented_commands():
    joined = "\n".join(SHELL).replace("\\\n", " ")
    return [line.split("  #")[0].strip() for line in joined.splitlines() if line.strip().startswith("gradstore ")]


@pytest.mark.parametrize("line", documented_commands())
def test_documented_commands_parse(line):
    """Every option exists and every required one is there; nothing is run."""
    words = shlex.split(line)[1:]
    command, context = cli, click.Context(cli)
    while isinstance(command, click.Group):
        command = command.get_command(context, words.pop(0))
        assert command is not None, line
    command.make_context(command.name, words, parent=context)


def test_every_command_is_documented_in_the_readme_or_changelog():
    missing = [name for name in COMMANDS if f"`{name}`" not in TEXT and f"gradstore {name}" not in TEXT]
    assert not missing


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`(gradstore(?:\.\w+)+)`", (ROOT / "docs" / "papers.md").read_text())))
)
def test_functions_named_in_papers_exist(name):
    module, attribute = name.rsplit(".", 1)
    top, *rest = module.split(".")[1:]
    folder = ROOT / top if top in ("pipelines", "cli", "schemas") else ROOT / "gradstore" / top
    file = folder.joinpath(*rest)
    source = file.with_suffix(".py") if file.with_suffix(".py").exists() else file / "__init__.py"
    names = {n.name for n in ast.parse(source.read_text()).body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    assert attribute in names, f"{name} is not defined in {source.relative_to(ROOT)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_make_targets_named_in_the_readme_exist():
    rules = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"`make ([\w-]+)`", TEXT)) | set(re.findall(r"^make ([\w-]+)", TEXT, flags=re.MULTILINE))
    assert named <= rules


def test_no_machine_path_is_committed():
    pattern = re.compile(r"/(?:home|root|work|mnt|Users)/\w")
    for file in [*ROOT.glob("gradstore/**/*.py"), *ROOT.glob("pipelines/**/*"), *ROOT.glob("cli/*.py"), *PAGES]:
        if file.is_file() and file.suffix in (".py", ".toml", ".md"):
            assert not pattern.search(file.read_text()), f"{file.relative_to(ROOT)} names a path of one machine"
