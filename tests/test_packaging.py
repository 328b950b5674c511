"""What is shipped: everything in the tree, under one name, and each side without the other's dependencies."""

import json
import os
import subprocess
import sys
import tomllib
import urllib.request
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAPPED = PROJECT["tool"]["setuptools"]["package-dir"]


def shipped_files():
    """Every module and data file of the tree, by its installed path."""
    for package, folder in {"gradstore": "gradstore", **MAPPED}.items():
        for file in sorted((ROOT / folder).rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                yield f"{package.replace('.', '/')}/{file.relative_to(ROOT / folder).as_posix()}"


def test_every_folder_with_modules_is_listed():
    """A package missing from the list works when editable, and vanishes from the wheel."""
    packages = {Path(f).parent.as_posix().replace("/", ".") for f in shipped_files()}
    assert packages == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_data_file_is_declared():
    """Likewise: a data file that no pattern covers is there when editable, and missing from the wheel."""
    declared = PROJECT["tool"]["setuptools"]["package-data"]
    for file in (Path(f) for f in shipped_files() if not f.endswith(".py")):
        patterns = declared.get(file.parent.as_posix().replace("/", "."), [])
        assert any(file.match(p) for p in patterns), f"{file} is in no package-data"


def test_constraints_pin_what_the_project_asks_for():
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    groups = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    asked = {d.split(">")[0].split("[")[0] for group in groups for d in group} - {"gradstore"}
    assert asked <= pinned, f"not in constraints.txt: {sorted(asked - pinned)}"
    assert "torchvision" not in pinned | asked


def pip(python, *arguments):
    done = subprocess.run(
        [python, "-m", "pip", "--quiet", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def environment(folder):
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", out, ROOT)
    return next(out.glob("gradstore-*.whl"))


@pytest.mark.packaging
def test_the_wheel_holds_the_whole_tree_and_only_gradstore(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert set(shipped_files()) <= names, f"missing: {sorted(set(shipped_files()) - names)}"
    tops = {n.split("/")[0] for n in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"gradstore"}


@pytest.mark.packaging
def test_the_table_side_works_where_torch_is_not_installed(wheel, world, tmp_path):
    """Query, select, explain, export and info of a store made elsewhere, with the core dependencies only; then report
    and explore with theirs."""
    from gradstore.store import GradientStore  # the store was written by this environment

    assert GradientStore.open(world.store_uri)
    python = environment(tmp_path / "venv")
    pip(python, "install", "-c", ROOT / "constraints.txt", wheel)
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    assert not {p.name for p in site.iterdir()} & {"cli", "pipelines", "schemas", "tests", "torch"}
    gradstore = python.parent / "gradstore"

    def run(*arguments):
        done = subprocess.run(
            [gradstore, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("--help")
    store = world.store_uri
    rows = json.loads(run("query", store, "SELECT COUNT(*) AS n FROM samples", "--json"))
    assert rows[0]["n"] > 0
    run("select", store, "--name", "no-torch", "--known", "5", "--unknown", "5", "--replace")
    group = "(SELECT sample_id FROM questions WHERE correctness < 0.5)"
    sql = f"SELECT sample_id, influence({group}) AS i, nearest({group}) AS n FROM gradients LIMIT 3"
    (first, *_) = json.loads(run("query", store, sql, "--json"))
    explained = json.loads(run("explain", store, first["sample_id"], "--selection", "no-torch", "--json"))
    assert explained["towards"]
    run("select", store, "--name", "herded", "--method", "herding", "--known", "5", "--unknown", "5", "--replace")
    assert json.loads(run("gc", store, "--json"))["freed_bytes"] > 0
    run("export", store, "no-torch", "--to", "trl", "--out", tmp_path / "out")
    run("export", store, "no-torch", "--to", "xtuner", "--out", tmp_path / "out")
    run("info", store)
    questions = world.folder / "train.jsonl"
    run("ingest", tmp_path / "new", questions, "--preset", "qa")
    done = subprocess.run(
        [gradstore, "probe", store, "--model", "x"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "pip install 'gradstore[extract]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    done = subprocess.run([gradstore, "report", store], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "pip install 'gradstore[report]'" in done.stderr
    pip(python, "install", "-c", ROOT / "constraints.txt", f"gradstore[explore] @ {wheel.as_uri()}")
    assert not any(p.name == "torch" for p in site.iterdir())
    run("report", store, "no-torch", "--out", tmp_path / "report.html")
    assert "no-torch" in (tmp_path / "report.html").read_text()
    command = [gradstore, "explore", store, "--port", "0", "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as explorer:
        try:
            address = explorer.stdout.readline().strip()
            with urllib.request.urlopen(address, timeout=60) as page:
                assert "<title>" in page.read().decode()
        finally:
            explorer.terminate()
            explorer.wait(60)


@pytest.mark.packaging
def test_models_work_where_lancedb_is_not_installed(wheel, model_folder, tmp_path):
    """A gradient row in an environment that has torch and peft, and nothing that stores."""
    python = environment(tmp_path / "venv")
    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    pip(python, "install", torch)
    pip(
        python,
        "install",
        "-c",
        ROOT / "constraints.txt",
        "torch",
        "transformers",
        "peft",
        "accelerate",
        "pyarrow",
        "numpy",
    )
    pip(python, "install", "--no-deps", wheel)
    code = f"""
import importlib.util
assert not any(importlib.util.find_spec(n) for n in ("lancedb", "lance", "polars", "numba"))
from gradstore.models.adapters import add_lora
from gradstore.models.encoding import encode
from gradstore.models.extraction import Extractor, Item
from gradstore.models.loading import load_model
from gradstore.sketch import Sketch
loaded = load_model({str(model_folder / "model")!r})
adapted = add_lora(loaded.model, r=2, alpha=4, targets="all-linear", seed=0)
item = Item("s", "answer", encode(loaded.tokenizer, "Question: Who?\\nAnswer:", " a person", 64))
rows = Extractor(loaded, adapted, None, "sgd", Sketch(dim=64)).rows([item])
print(rows["status"].to_pylist())
"""
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['ok']"
