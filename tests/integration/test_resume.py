"""Killed with SIGKILL on the way, the same command finishes, and the tables are those of an uninterrupted run."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from gradstore.pipelines.ingest import ingest
from gradstore.pipelines.lab.people import people
from gradstore.store import GradientStore

pytestmark = pytest.mark.slow


def command(*arguments):
    return [sys.executable, "-m", "gradstore.cli.main", *map(str, arguments)]


def run(*arguments):
    done = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def kill_once_written(store_uri, table, *arguments):
    """Start a command and SIGKILL it as soon as its table has rows; returns how many it had."""
    process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        rows = GradientStore.open(store_uri).row_counts()[table]
        if rows:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return GradientStore.open(store_uri).row_counts()[table]
        time.sleep(0.01)
    pytest.fail(f"the command ended ({process.poll()}) or hung before it could be killed: this test tested nothing")


def contents(store_uri):
    """Every table sorted by key; of runs only what a clock and a commit counter do not decide."""
    store = GradientStore.open(store_uri)
    found = {}
    for table in store.versions():
        rows = store.scan(table).collect()
        if table == "runs":
            rows = rows.drop("started_at", "finished_at", "counts", "versions_written")
        found[table] = rows.sort(rows.columns[0])
    return found


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """1,350 questions, so that a stage has several commits; of most of them the model knows nothing, which is fine."""
    path = tmp_path_factory.mktemp("questions") / "train.jsonl"
    path.write_text("".join(json.dumps(f.as_record()) + "\n" for f in people(450)))
    return path


def test_a_killed_run_ends_like_an_uninterrupted_one(model_folder, questions, tmp_path):
    model = ["--model", model_folder / "model", "--device", "cpu", "--max-length", "64", "--batch-tokens", "2048"]
    warm = [*model, "--rehearsal", "40", "--threshold", "0", "--epochs", "1", "--lora-r", "4"]
    stores = {name: str(tmp_path / name) for name in ("killed", "whole")}
    for uri in stores.values():
        ingest(uri, [questions], preset="qa")
    probe = ["--max-new-tokens", "4", "--json"]

    rows = kill_once_written(stores["killed"], "probes", "probe", stores["killed"], *model, *probe)
    assert 0 < rows < 1350, f"{rows} rows when killed: not in the middle"
    unfinished = GradientStore.open(stores["killed"]).scan("runs").collect()
    assert "started" in unfinished["status"].to_list()
    resumed = run("probe", stores["killed"], *model, *probe)
    assert resumed["new"] == 1350 - rows, "a resumed run did work again, or left some out"
    assert run("probe", stores["whole"], *model, *probe)["new"] == 1350

    for uri in stores.values():
        run("warmup", uri, *warm, "--out", tmp_path / "warmup", "--json")
    extract = ["--checkpoint", tmp_path / "warmup", "--dim", "256", "--json"]
    rows = kill_once_written(stores["killed"], "gradients", "extract", stores["killed"], *model, *extract)
    assert 0 < rows < 2700, f"{rows} rows when killed: not in the middle"
    resumed = run("extract", stores["killed"], *model, *extract)
    assert resumed["new"] == 2700 - rows, "a resumed run did work again, or left some out"
    assert run("extract", stores["whole"], *model, *extract)["new"] == 2700

    killed, whole = contents(stores["killed"]), contents(stores["whole"])
    assert killed.keys() == whole.keys()
    for table in whole:
        assert killed[table].equals(whole[table], null_equal=True), f"{table} differs after the kill"
