"""A whole scoreboard, small: pretrain, select, fine-tune, evaluate, compare; and again, from what is there."""

import json

import pytest

from gradstore.cli.main import main

SETTINGS = """
[worlds.people]
people = 40
known = 5
unknown = 5
rehearsal = 20
max_new_tokens = 6
learning_rates = [4e-3]
epochs = 1
pretraining_steps = 130

[variants.random]
method = "random"
from = "control"

[variants.craft]
method = "craft"
from = "literature"

[variants.less]
method = "less"
from = "literature"

[variants.herding]
method = "herding"
from = "ours"
"""


def run(folder, capsys, *more):
    main(["lab", "scoreboard", str(folder / "out"), "--settings", str(folder / "s.toml"), "--seeds", "0", *more])
    return capsys.readouterr().out


@pytest.mark.slow
def test_a_scoreboard_from_one_command_and_again_without_work(tmp_path, capsys):
    (tmp_path / "s.toml").write_text(SETTINGS)
    found = json.loads(run(tmp_path, capsys, "--workers", "1", "--json"))
    assert {r["variant"] for r in found["rows"]} | {f["variant"] for f in found["failed"]} == {
        "random", "craft", "less", "herding",
    }  # fmt: skip
    for row in found["rows"]:
        assert row["weight"] == 10 or row["variant"] == "craft", "equal budgets, equal total weight"
        assert len(row["frontier"]) == 1
        assert abs(row["correct"] + row["wrong"] + row["refused"] - 1) < 1e-6
    trials = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "trials").iterdir()}
    record = json.loads((tmp_path / "out" / "trials" / "people-0-herding.json").read_text())
    before = json.loads((tmp_path / "out" / "trials" / "people-0.initial.json").read_text())
    for part in ("validation", "test"):
        assert len(record["looks"][0]["verdicts"][part]) == len(before["sample_ids"][part])
    text = run(tmp_path, capsys)
    assert "### herding less each other method" in text
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "trials").iterdir()} == trials, "it ran again"
    assert (tmp_path / "out" / "frontiers.svg").exists()
