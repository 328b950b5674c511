"""The scoreboard's arithmetic on trials written by hand."""

import json
from dataclasses import replace

import pytest

from gradstore.errors import InputFileError
from gradstore.pipelines.lab.board import board, chosen, markdown
from gradstore.pipelines.lab.scoreboard import configuration, run, trial_path, worlds_of, write_json
from gradstore.pipelines.lab.worlds import World, split
from gradstore.report.frontiers import write_figures


def look(rate, validation, ths, over, fixed):
    test = {"ths": ths, "over_refusal": over, "fixed": fixed, "correct": 0.5, "wrong": 0.3, "refused": 0.2}
    return {"learning_rate": rate, "validation": {"ths": validation}, "test": test}


def trial(variant, seed, ths, source="ours", world="people", looks=None):
    return {
        "world": world,
        "variant": variant,
        "seed": seed,
        "from": source,
        "effective_size": [10, 5],
        "weight": 15.0,
        "picked": {"exposure": {"unknown": {"never": 1.0}}, "unknown": []},
        "seconds": {"all": 1.0},
        "looks": looks or [look(1e-3, 0.1, ths, 0.02, 0.5), look(2e-3, 0.05, ths + 1, 0.05, 0.7)],
    }


RECORDS = [trial("ours", s, 0.3 + s / 100) for s in range(3)] + [
    trial("cor-rait", s, 0.2 + s / 200, "literature") for s in range(3)
]


def test_the_strength_is_chosen_on_validation_and_reported_on_test():
    found = chosen(trial("x", 0, 0.3))
    assert found["learning_rate"] == 1e-3, "the second look is better on test, which must not be looked at"
    assert found["ths"] == 0.3
    tied = [look(1e-3, 0.1, 0.3, 0, 0), look(2e-3, 0.1, 0.4, 0, 0)]
    assert chosen(trial("x", 0, 0, looks=tied))["learning_rate"] == 1e-3, "the weaker of equals"


def test_rows_are_means_over_seeds_and_the_area_is_of_all_strengths():
    row = board(RECORDS, "ours")["rows"][0]
    assert (row["variant"], row["seeds"]) == ("ours", [0, 1, 2])
    assert row["ths"] == pytest.approx(0.31)
    assert row["ths_sd"] == pytest.approx(0.01)
    assert row["area"] == pytest.approx((0.03 * 0.5 + 0.05 * 0.7) / 0.1)


def test_comparisons_are_paired_by_seed_and_only_those_with_others_are_corrected():
    records = [*RECORDS, trial("cor-rait", 7, 9.0, "literature"), *(trial("mine-too", s, 0.1) for s in range(3))]
    found = {(c["other"], c["metric"]): c for c in board(records, "ours")["comparisons"]}
    of_theirs = found["cor-rait", "ths"]
    assert of_theirs["seeds"] == [0, 1, 2], "seed 7 has no partner"
    assert of_theirs["mean"] == pytest.approx(0.105)
    assert of_theirs["p_holm"] == pytest.approx(of_theirs["p"])
    assert found["mine-too", "ths"]["p_holm"] is None
    assert found["cor-rait", "area"]["p_holm"] is None


def test_a_trial_that_could_not_choose_is_told():
    failed = {"world": "people", "seed": 0, "variant": "craft", "failed": "no usable candidate"}
    found = board([*RECORDS, failed], "ours")
    assert found["failed"] == [failed]
    assert "craft could not choose: no usable candidate" in markdown(found)


def test_the_table_and_the_figures_are_written(tmp_path):
    found = board(RECORDS, "ours")
    text = markdown(found)
    assert "| ours | ours | 0.310 ± 0.010 |" in text
    assert json.loads(json.dumps(found)) == found
    for path in write_figures(found, tmp_path):
        assert path.stat().st_size > 2000


def test_people_are_split_whole_and_another_seed_splits_otherwise():
    together = {f"{p}-{fact}": f"person {p}" for p in range(60) for fact in range(3)}
    places = split(together, 0)
    for p in range(60):
        assert len({places[f"{p}-{fact}"] for fact in range(3)}) == 1
    sizes = [list(places.values()).count(name) for name in ("train", "validation", "test")]
    assert sizes == [90, 30, 60]
    assert split(together, 1) != places


def test_settings_that_cannot_be_run_say_what_is_missing(tmp_path):
    with pytest.raises(InputFileError, match="no world 'mars': there are people, nq, arc"):
        worlds_of(configuration(), ["mars"], {})
    with pytest.raises(InputFileError, match="the world nq is made of a file of questions: say where with --data nq="):
        worlds_of(configuration(), ["nq"], {})
    (tmp_path / "bad.toml").write_text("[worlds.x]\nknown = 1\n")
    with pytest.raises(InputFileError, match="needs .* 'random' among them: it is the control"):
        configuration(tmp_path / "bad.toml")


def test_trials_of_other_settings_are_not_gone_on_with(tmp_path):
    """Both are refused before any model is made: rows of two settings in one table would compare nothing."""
    world = World("people", 10, 5, 20, 8, (1e-3,), 100)
    asked = {"method": "herding"}
    path = trial_path(tmp_path, "people", "herding", 0)
    path.parent.mkdir(parents=True)
    write_json(path, {"asked": {"method": "craft"}})
    with pytest.raises(InputFileError, match=r"method: 'craft', expected 'herding'.*Give another folder"):
        run(tmp_path, [world], [0], {"herding": asked})
    with pytest.raises(InputFileError, match="people: 900, expected 60"):
        run(tmp_path, [replace(world, people=60)], [0], {"herding": asked})
    assert not (tmp_path / "models").exists()
