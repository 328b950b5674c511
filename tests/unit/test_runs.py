"""A run is named by what it was asked and what it read; one that was killed is found again."""

import json

import lancedb
import pyarrow as pa
import pytest

from gradstore.runs import begin, library_versions
from gradstore.schemas import TABLES
from gradstore.store import GradientStore

SETTINGS = {"k": 1, "names": ["a", "b"]}


@pytest.fixture
def store(tmp_path) -> GradientStore:
    return GradientStore.create(tmp_path / "store")


def add_group(store: GradientStore, name: str) -> None:
    row = {"row_id": name, "group_id": "g", "sample_id": "s", "name": "n", "definition": "{}"}
    store.write("groups", pa.Table.from_pylist([row], schema=TABLES["groups"].schema))


def stored(store: GradientStore) -> list[dict]:
    return store.scan("runs").sort("started_at").collect().to_dicts()


def test_the_same_settings_and_versions_make_the_same_run_id(store):
    first = begin(store, "select", SETTINGS, ["samples"])
    first.finish({"n": 1}, [])
    again = begin(store, "select", dict(reversed(SETTINGS.items())), ["samples"])
    assert again.run_id == first.run_id
    assert not again.resumed
    assert len(stored(store)) == 1


def test_another_stage_setting_or_version_makes_another(store):
    ids = [begin(store, "select", SETTINGS, ["groups"]).run_id]
    ids.append(begin(store, "probe", SETTINGS, ["groups"]).run_id)
    ids.append(begin(store, "select", SETTINGS | {"k": 2}, ["groups"]).run_id)
    ids.append(begin(store, "select", SETTINGS | {"k": 3}, []).run_id)
    begin(store, "select", SETTINGS, ["groups"]).finish({}, [])
    add_group(store, "x")
    ids.append(begin(store, "select", SETTINGS, ["groups"]).run_id)
    assert len(set(ids)) == 5, "two different stages would share one record"


def test_an_unfinished_run_is_found_again_with_the_versions_it_had_read(store):
    killed = begin(store, "probe", SETTINGS, ["groups", "samples"])
    add_group(store, "x")
    again = begin(GradientStore.open(store.uri), "probe", SETTINGS, ["groups", "samples"])
    assert (again.run_id, again.versions, again.resumed) == (killed.run_id, killed.versions, True)
    assert store.versions(["groups"])["groups"] > again.versions["groups"], "a resumed plan must not see newer rows"
    again.finish({"rows": 2}, ["groups"])
    (row,) = stored(store)
    assert row["status"] == "finished"
    assert row["started_at"] == killed._started_at
    assert json.loads(row["versions_read"]) == killed.versions


def test_only_the_same_stage_and_settings_go_on_with_a_run(store):
    begin(store, "probe", SETTINGS, [])
    assert not begin(store, "probe", SETTINGS | {"k": 2}, []).resumed
    assert not begin(store, "select", SETTINGS, []).resumed
    assert begin(store, "probe", SETTINGS, []).resumed


def test_a_finished_run_is_not_gone_on_with(store):
    begin(store, "probe", SETTINGS, []).finish({}, [])
    assert not begin(store, "probe", SETTINGS, []).resumed


def test_the_record_says_what_was_asked_read_and_written(store):
    run = begin(store, "select", SETTINGS, ["samples"])
    (row,) = stored(store)
    assert (row["stage"], row["status"], row["finished_at"], row["counts"]) == ("select", "started", None, None)
    add_group(store, "x")
    run.finish({"selected": 3}, ["groups"])
    (row,) = stored(store)
    assert json.loads(row["settings"]) == SETTINGS
    assert json.loads(row["counts"]) == {"selected": 3} == run.counts
    assert json.loads(row["versions_read"]) == run.versions
    assert json.loads(row["versions_written"]) == store.versions(["groups"])
    assert json.loads(row["libraries"]) == library_versions()
    assert row["finished_at"] >= row["started_at"]


def test_finish_tags_the_versions_it_wrote(store):
    run = begin(store, "select", SETTINGS, ["samples"])
    add_group(store, "x")
    run.finish({}, ["groups"])
    tag = f"select-{run.run_id[:12]}"
    database = lancedb.connect(store.uri)
    assert database.open_table("groups").tags.list()[tag]["version"] == store.versions(["groups"])["groups"]
    assert tag not in database.open_table("samples").tags.list()


def test_libraries_are_those_that_decide_a_number():
    found = library_versions()
    assert {"python", "gradstore", "numpy", "pylance", "polars"} <= set(found)
    assert all(version[0].isdigit() for version in found.values())
