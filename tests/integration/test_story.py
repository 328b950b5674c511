"""The main job on real questions, by the command line alone: pretrain, build, select, export, fine-tune, evaluate."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

pytestmark = pytest.mark.slow


def gradstore(*arguments):
    command = [sys.executable, "-m", "gradstore.cli.main", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(store, sql):
    return json.loads(gradstore("query", store, sql, "--json"))


def confusion(store):
    sql = (
        "SELECT s.exposure, COUNT(*) AS n, SUM(CASE WHEN p.correctness >= 0.5 THEN 1 ELSE 0 END) AS known "
        "FROM probes p JOIN samples s ON s.sample_id = p.sample_id GROUP BY s.exposure"
    )
    return {r["exposure"]: r["known"] / r["n"] for r in ask(store, sql)}


CASES = {
    "nq": (["nq", "dev.json"], 240, 200, ["--steps", "240"]),
    "arc": (["arc", "ARC-Challenge-Test.jsonl"], 80, 60, ["--steps", "140"]),
}
RECIPE = Path(__file__).parents[2] / "examples" / "trl_sft.py"


def parted(questions, total, first, folder):
    """The first questions of a file in two files: ``first`` to build from, the rest of ``total`` to evaluate on."""
    text = questions.read_text()
    listed = text.lstrip().startswith("[")
    rows = json.loads(text)[:total] if listed else [json.loads(line) for line in text.splitlines()[:total]]
    for name, part in (("train", rows[:first]), ("test", rows[first:])):
        place = folder.joinpath(name).with_suffix(questions.suffix)
        place.write_text(json.dumps(part) if listed else "".join(json.dumps(r) + "\n" for r in part))
        yield place


@pytest.mark.parametrize("preset", CASES)
def test_from_real_questions_to_training_data(preset, shared_data, tmp_path):
    path, total, first, steps = CASES[preset]
    questions, model, store = shared_data.joinpath(*path), tmp_path / "M", tmp_path / "S"
    train, test = parted(questions, total, first, tmp_path)
    gradstore("lab", "pretrain", questions, "--preset", preset, "--limit", total, *steps, "--out", model)
    build = ["build", store, "--data", train, "--preset", preset, "--model", model, "--rehearsal", "60"]
    gradstore(*build, "--epochs", "1", "--dim", "1024", "--max-new-tokens", "8")
    known = confusion(store)
    assert known["often"] > 0.8, known
    assert known["never"] < (0.1 if preset == "nq" else 0.6), known

    gradstore("select", store, "--method", "grait", "--known", "20", "--unknown", "5", "--name", "g")
    for target in ("trl", "xtuner"):
        gradstore("export", store, "g", "--to", target, "--out", tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "trl" / "train.jsonl").read_text().splitlines()]
    assert len(rows) == 25
    assert len(json.loads((tmp_path / "out" / "xtuner" / "grait.json").read_text())) == 25

    out = tmp_path / "v.parquet"
    gradstore("query", store, "SELECT sample_id, response, vector FROM gradients", "--format", "parquet", "--out", out)
    recompute(store, out, unknown=5)
    fine_tune_and_evaluate(store, model, test, preset, tmp_path)


def fine_tune_and_evaluate(store, model, test, preset, folder):
    """TRL's recipe on the exported file, then the tuned model beside the initial one on questions kept apart."""
    data, adapter = folder / "out" / "trl" / "train.jsonl", folder / "adapter"
    settings = ["--tuning", "lora", "--precision", "fp32", "--lora-r", "8", "--lr", "1e-2", "--global-batch", "5"]
    settings += ["--epochs", "6"]
    recipe = [RECIPE, "--preset", "grait", "--model", model, "--data", data, "--out", adapter, *settings]
    done = subprocess.run([sys.executable, *map(str, recipe)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    asked = ["evaluate", store, "--model", model, "--data", test, "--preset", preset, "--max-new-tokens", "8", "--json"]
    gradstore(*asked, "--name", "init")
    gradstore(*asked, "--adapter", adapter, "--name", "tuned", "--against", "init")
    rows = ask(store, "SELECT metric, value, low, high, n FROM metrics WHERE evaluation = 'tuned' AND scope = 'all'")
    numbers = {r["metric"]: r for r in rows}
    assert {"correct", "wrong", "refused", "ths", "over_refusal"} <= set(numbers)
    for row in rows:
        assert row["value"] is None or row["low"] <= row["value"] <= row["high"]
    outputs = {name: said(store, name) for name in ("init", "tuned")}
    assert outputs["init"].keys() == outputs["tuned"].keys()
    assert outputs["init"] != outputs["tuned"], "the tuned model says what the initial one does: is the adapter used?"


def said(store, name):
    rows = ask(store, f"SELECT sample_id, output FROM evaluations WHERE evaluation = '{name}'")
    return {r["sample_id"]: r["output"] for r in rows}


def recompute(store, vectors, unknown):
    """I_ref by an N×N product in float64 from the exported file: scores to 1e-6, and the very selection."""
    frame = pl.read_parquet(vectors).filter(pl.col("response") == "refusal")
    probes = pl.DataFrame(ask(store, "SELECT sample_id, correctness FROM probes"))
    frame = frame.join(probes, on="sample_id")
    u = frame["vector"].to_numpy().astype(np.float64)
    is_unknown = frame["correctness"].to_numpy() < 0.5
    scores = pl.DataFrame({"sample_id": frame["sample_id"], "again": (u @ u.T)[:, is_unknown].mean(axis=1)})
    stored = pl.DataFrame(ask(store, "SELECT sample_id, knowledge, rank, i_ref FROM selections"))
    both = scores.join(stored, on="sample_id")
    assert (both["again"] - both["i_ref"]).abs().max() < 1e-6
    ours = both.filter(pl.col("knowledge") == "unknown").sort("again", descending=True)
    cut = ours["again"][unknown - 1]
    selected = set(ours.filter(pl.col("rank").is_not_null())["sample_id"])
    near = set(ours.filter((pl.col("again") - cut).abs() < 1e-6)["sample_id"])
    assert selected - near == set(ours["sample_id"].head(unknown)) - near, f"near the cut: {near}"
