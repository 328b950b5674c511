"""The floors of the house: imports go down only, and a folder may import only the libraries it owns."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAPPED = {"cli": "gradstore.cli", "pipelines": "gradstore.pipelines", "schemas": "gradstore.schemas"}

# room → floor; the longest matching prefix counts
FLOORS = {
    "gradstore": 0,  # the package itself imports nothing
    "gradstore.errors": 0,
    "gradstore.identity": 0,
    "gradstore.schemas": 0,
    "gradstore.batching": 1,
    "gradstore.sketch": 1,
    "gradstore.kernels": 1,
    "gradstore.influence": 1,  # arithmetic over streams of blocks: SQL's functions need it beneath the store's door
    "gradstore.store": 2,
    "gradstore.runs": 2,
    "gradstore.models": 3,
    "gradstore.datasets": 3,
    "gradstore.methods": 0,
    "gradstore.prompts": 3,
    "gradstore.judging": 3,
    "gradstore.probing": 3,
    "gradstore.conflicts": 3,
    "gradstore.flow": 3,
    "gradstore.selection": 3,
    "gradstore.weighting": 3,
    "gradstore.evaluation": 3,
    "gradstore.export": 3,
    "gradstore.report": 3,
    "gradstore.pipelines": 4,
    "gradstore.explorer": 4,
    "gradstore.cli": 5,
}
# library → the only rooms that may import it
OWNERS = {
    "torch": ["gradstore.models"],
    "transformers": ["gradstore.models"],
    "peft": ["gradstore.models"],
    "trl": ["gradstore.models"],
    "accelerate": ["gradstore.models"],
    "safetensors": ["gradstore.models"],
    "tokenizers": ["gradstore.models"],
    "sentence_transformers": ["gradstore.models"],
    "bitsandbytes": ["gradstore.models"],
    "triton": ["gradstore.models"],
    "lancedb": ["gradstore.store"],
    "lance": ["gradstore.store"],
    "polars_pylance": ["gradstore.store"],
    "sqlglot": ["gradstore.store"],
    "numba": ["gradstore.kernels"],
    "llvmlite": ["gradstore.kernels"],
    "click": ["gradstore.cli"],
    "rich": ["gradstore.cli"],
    "datasets": ["gradstore.datasets", "gradstore.models.weighted_sft", "gradstore.models.finetuning"],
    "altair": ["gradstore.report"],
    "vl_convert": ["gradstore.report"],
    "jinja2": ["gradstore.report"],
    "starlette": ["gradstore.explorer"],
    "uvicorn": ["gradstore.explorer"],
    "scipy": ["gradstore.evaluation"],
    "torchvision": [],
    "pandas": [],
}


def modules():
    """(dotted name, file) of every shipped module."""
    for top in ("gradstore", *MAPPED):
        for file in sorted((ROOT / top).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            name = ".".join([MAPPED.get(top, top), *parts[1:]])
            yield name.removesuffix(".__init__"), file


def imports(file):
    """Every absolute module that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import; the folders are mapped, so imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor(name):
    return FLOORS[max((room for room in FLOORS if f"{name}.".startswith(f"{room}.")), key=len)]


MODULES = dict(modules())


def test_every_module_has_a_floor():
    rooms = [n for n in FLOORS if n != "gradstore"]
    homeless = [n for n in MODULES if n != "gradstore" and not any(f"{n}.".startswith(f"{r}.") for r in rooms)]
    assert not homeless, "a new room: give it a floor here and a line in docs/architecture.md"


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down_and_stay_with_their_owner(name):
    for imported in imports(MODULES[name]):
        top = imported.split(".")[0]
        if top == "gradstore":
            if imported.startswith("gradstore.__"):
                continue
            assert floor(imported) <= floor(name), f"{name} (floor {floor(name)}) imports {imported} from above"
            sides = {imported.startswith("gradstore.models"), name.startswith("gradstore.models")}
            if floor(name) == 3 and floor(imported) == 3:
                assert len(sides) == 1, f"{name} imports {imported}: models and tables meet only in pipelines"
        elif top in OWNERS:
            allowed = OWNERS[top]
            assert any(f"{name}.".startswith(f"{owner}.") for owner in allowed), (
                f"{name} imports {top}: only {allowed} may"
            )


def test_models_never_import_the_store():
    for name, file in MODULES.items():
        if name.startswith("gradstore.models"):
            reached = [
                i for i in imports(file) if i.startswith(("gradstore.store", "gradstore.runs", "gradstore.pipelines"))
            ]
            assert not reached, f"{name} imports {reached}: extraction must run where lancedb is not installed"


def run_without(blocked, code):
    """Run code in a process where the blocked packages cannot be imported."""
    block = f"import sys; [sys.modules.__setitem__(m, None) for m in {blocked!r}]\n"
    return subprocess.run([sys.executable, "-c", block + code], capture_output=True, text=True, check=False)


TORCH = ["torch", "transformers", "peft", "trl", "accelerate", "tokenizers", "safetensors"]
LANCE = ["lancedb", "lance", "polars_pylance", "numba"]


def test_models_import_without_lance():
    names = [n for n in MODULES if n.startswith("gradstore.models")]
    done = run_without(LANCE, "".join(f"import {n}\n" for n in names))
    assert done.returncode == 0, done.stderr


def test_the_table_side_imports_without_torch():
    names = ["select", "export", "ingest", "work"]
    rooms = [
        n for n in MODULES if floor(n) in (0, 1, 2, 3) and not n.startswith("gradstore.models") and "__main__" not in n
    ]
    code = "".join(f"import {n}\n" for n in [*rooms, *(f"gradstore.pipelines.{n}" for n in names)])
    done = run_without(TORCH, code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["select", "--help"], ["query", "--help"], ["build", "--help"]])
def test_help_needs_neither_torch_nor_lance(arguments):
    code = f"from gradstore.cli.main import main; main({arguments!r})"
    done = run_without([*TORCH, *LANCE, "polars", "numba"], code)
    assert done.returncode == 0, done.stderr
    assert "Usage: gradstore" in done.stdout


def test_files_and_functions_stay_readable():
    """80–250 lines a file is the aim, 300 the limit; no public function longer than 60 lines."""
    long_files = {n: f for n, f in MODULES.items() if len(f.read_text().splitlines()) > 300}
    # the tables of a store are one list, read as one
    assert set(long_files) <= {"gradstore.schemas.tables"}, f"too long: {sorted(long_files)}"
    for name, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{name}.{node.name} is longer than 60 lines"
