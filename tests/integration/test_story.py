"""The main job on real questions, by the command line alone: pretrain, build, select, export, recompute."""

import json
import subprocess
import sys

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
    "nq": (["nq", "dev.json"], ["--limit", "200"], ["--steps", "220"]),
    "arc": (["arc", "ARC-Challenge-Test.jsonl"], ["--limit", "60"], ["--steps", "120"]),
}


@pytest.mark.parametrize("preset", CASES)
def test_from_real_questions_to_training_data(preset, shared_data, tmp_path):
    path, limit, steps = CASES[preset]
    questions, model, store = shared_data.joinpath(*path), tmp_path / "M", tmp_path / "S"
    gradstore("lab", "pretrain", questions, "--preset", preset, *limit, *steps, "--out", model)
    build = ["build", store, "--data", questions, "--preset", preset, *limit, "--model", model, "--rehearsal", "60"]
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
