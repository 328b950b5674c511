"""Asking a store that went through every stage: the cookbook, explanations, files of queries, the cache of vectors."""

import csv
import io
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gradstore.errors import ProvenanceError, StoreError
from gradstore.models.checkpoints import epoch_folders
from gradstore.pipelines import cookbook
from gradstore.pipelines.explain import explain
from gradstore.pipelines.explain_question import explain_question
from gradstore.pipelines.select import select
from gradstore.selection import Settings
from gradstore.store import GradientStore, cached_vectors, clear_cache, read_vectors, run_query

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def store(world, tmp_path_factory) -> GradientStore:
    folder = tmp_path_factory.mktemp("ask") / "store"
    world.copy(folder)
    store = GradientStore.open(folder)
    for method in ("grait", "cor-rait"):
        select(store, method, Settings(method, known=20, unknown=6))
    return store


@pytest.fixture(scope="module")
def vectors(store) -> dict:
    """(sample, response) → its vectors at both checkpoints, (2, dim) float64."""
    rows = run_query(store, "SELECT sample_id, response, checkpoint_id, vector FROM gradients WHERE status = 'ok'")
    rows = rows.sort("sample_id", "response", "checkpoint_id")
    found: dict = {}
    for i, r, v in rows.select("sample_id", "response", "vector").iter_rows():
        found.setdefault((i, r), []).append(np.array(v, np.float64))
    return {k: np.stack(v) for k, v in found.items()}


# -- the cookbook ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", cookbook.cookbook(), ids=lambda e: e.title)
def test_every_query_of_the_cookbook_answers(store, entry):
    frame = run_query(store, entry.sql)
    assert frame.height > 0
    assert frame.null_count().sum_horizontal().item() < frame.height * frame.width, "nothing but nulls"


def test_the_cookbook_says_what_the_page_prints():
    text = (ROOT / "docs" / "cookbook.md").read_text()
    assert cookbook.page() in text, (
        "docs/cookbook.md is behind: python -m gradstore.pipelines.cookbook prints what it should hold"
    )
    assert len(cookbook.cookbook()) >= 12


def test_a_name_with_a_quote_asks_of_that_selection(store):
    entry = cookbook.cookbook("it's")[1]
    assert "'it''s'" in entry.sql
    assert run_query(store, entry.sql).height == 0


def test_pressure_by_subject_is_the_mean_influence_of_the_unknown_on_the_known(store, vectors):
    entry = next(e for e in cookbook.cookbook() if e.title == "Refusal pressure by subject")
    known = run_query(store, "SELECT sample_id, subject, correctness FROM questions WHERE role = 'train'")
    unknown = [vectors[i, "refusal"] for i in known.filter(pl.col("correctness") < 0.5)["sample_id"]]
    mean = np.mean(unknown, axis=0)
    for row in run_query(store, entry.sql).iter_rows(named=True):
        side = known.filter(pl.col("correctness") >= 0.5, pl.col("subject") == row["subject"])["sample_id"]
        pressures = np.concatenate([(vectors[i, "refusal"] * mean).sum(axis=1) for i in side])
        assert row["known_questions"] == len(pressures)
        assert row["mean_pressure"] == pytest.approx(pressures.mean(), abs=1e-6)


# -- explanations ----------------------------------------------------------------------------------------------


def pushes(store, vectors, target: np.ndarray, trained) -> list[tuple]:
    """(push, sample) of every trained row, strongest first, one product at a time."""
    rates = store.scan("checkpoints").sort("checkpoint_id").collect()["learning_rate"].to_numpy()
    shares = rates / rates.sum()
    found = [(w * float((vectors[i, r] * target).sum(axis=1) @ shares), i) for i, r, w in trained if (i, r) in vectors]
    return sorted(found, key=lambda p: (-p[0], p[1]))


@pytest.mark.parametrize("selection", [None, "grait"])
def test_an_explanation_names_the_strongest_pushes_either_way(store, vectors, selection):
    questions = run_query(store, "SELECT sample_id, correctness FROM questions WHERE role = 'train' ORDER BY sample_id")
    identity = questions["sample_id"][3]
    if selection is None:
        sides = questions.with_columns(
            pl.when(pl.col("correctness") >= 0.5).then(pl.lit("answer")).otherwise(pl.lit("refusal"))
        )
        trained = [(i, r, 1.0) for i, _, r in sides.iter_rows() if i != identity]
    else:
        sql = "SELECT sample_id, response, weight FROM selections WHERE selection = 'grait' AND response IS NOT NULL"
        trained = [row for row in run_query(store, sql).iter_rows() if row[0] != identity]
    expected = pushes(store, vectors, vectors[identity, "refusal"], trained)
    found = explain(store, identity[:10], selection, 5)
    assert [r["sample_id"] for r in found["towards"]] == [i for p, i in expected if p > 0][:5]
    assert [r["sample_id"] for r in found["against"]] == [i for p, i in reversed(expected) if p < 0][:5]
    assert [r["push"] for r in found["towards"]] == pytest.approx([p for p, _ in expected if p > 0][:5], abs=1e-6)
    assert found["net"] == pytest.approx(sum(p for p, _ in expected) / sum(w for *_, w in trained), abs=1e-6)
    assert found["sample"]["sample_id"] == identity
    assert len(found["sample"]["generations"]) == len(found["sample"]["verdicts"]) == 10
    assert identity not in {r["sample_id"] for r in found["towards"] + found["against"]}


def test_an_explanation_agrees_with_the_stored_influence(store):
    rows = run_query(store, "SELECT sample_id, target, score FROM influence").rows()
    identity = rows[0][0]
    assert explain(store, identity)["influence"] == pytest.approx({t: s for i, t, s in rows if i == identity}, abs=1e-6)


def test_a_selection_says_why_a_row_is_in_or_out_and_whose_place_it_takes(store):
    rows = run_query(store, "SELECT * FROM selections WHERE selection = 'grait' AND knowledge = 'unknown'")
    taken = rows.drop_nulls("rank").sort("rank")
    left = rows.filter(pl.col("reason") == "outranked").sort("i_ref", descending=True)
    first = explain(store, taken["sample_id"][0], "grait")["selection"]
    assert (first["reason"], first["rank"], first["settings"]["method"]) == ("selected", 1, "grait")
    assert first["weight"] == taken["weight"][0]
    assert first["displaces"]["sample_id"] == left["sample_id"][0], "the best of those left out by I_ref"
    out = explain(store, left["sample_id"][0], "grait")["selection"]
    assert out["weight"] is None
    assert out["displaced_by"]["sample_id"] == taken["sample_id"][-1]
    known = run_query(
        store, "SELECT sample_id FROM selections WHERE selection = 'grait' AND response = 'answer' LIMIT 1"
    )
    assert explain(store, known.item(), "grait")["selection"].get("displaces") is None, "only picks are scored"


def test_a_stored_question_asked_anew_is_explained_the_same(world, store):
    sample = run_query(store, "SELECT sample_id, question FROM samples WHERE role = 'train' ORDER BY sample_id LIMIT 1")
    identity, question = sample.row(0)
    folders = epoch_folders(world.folder / "warmup")
    stored, anew = explain(store, identity), explain_question(store, world.options, folders, question)
    assert anew["sample"]["sample_id"] == identity
    assert anew["influence"] == pytest.approx(stored["influence"], abs=2e-3)
    assert anew["towards"][0]["sample_id"] == stored["towards"][0]["sample_id"]
    assert [r["push"] for r in anew["towards"]] == pytest.approx([r["push"] for r in stored["towards"]], abs=2e-3)
    with pytest.raises(ProvenanceError, match="which is not among the 1 given: pass its folder"):
        explain_question(store, world.options, folders[:1], question)


def test_an_explanation_of_a_selection_reads_what_that_was_made_from(store, tmp_path):
    """Another probe came later, and the threshold was another: neither is in the way, nor mixed in."""
    shutil.copytree(store.uri, tmp_path / "store")
    copy = GradientStore.open(tmp_path / "store")
    select(copy, "strict", Settings("grait", known=5, unknown=5, threshold=0.95))
    probes = copy.scan("probes").collect()
    copy.write("probes", probes.with_columns(row_id=pl.col("row_id") + "x", probe_id=pl.lit("later")).to_arrow())
    rows = run_query(copy, "SELECT sample_id, knowledge, i_ref, i_over FROM selections WHERE selection = 'strict'")
    for identity, knowledge, i_ref, i_over in rows.filter(pl.col("i_ref").is_not_null()).head(5).iter_rows():
        found = explain(copy, identity, "strict")
        assert found["sample"]["knowledge"] == knowledge
        assert found["influence"] == pytest.approx({"known": i_over, "unknown": i_ref}, abs=1e-6)
    with pytest.raises(ProvenanceError, match="2 probes fit"):
        explain(copy, rows["sample_id"][0])


def test_a_draw_names_nobody_in_a_place(store):
    sql = "SELECT sample_id FROM selections WHERE selection = 'cor-rait' AND reason = 'outranked' LIMIT 1"
    assert "displaced_by" not in explain(store, run_query(store, sql).item(), "cor-rait")["selection"]


def test_who_cannot_be_explained_is_told_why(store):
    asked = run_query(store, "SELECT sample_id FROM samples WHERE role = 'test' LIMIT 1").item()
    with pytest.raises(StoreError, match="no usable refusal gradient.*only training samples are extracted"):
        explain(store, asked)
    with pytest.raises(StoreError, match="near ones are"):
        explain(store, asked[:-1] + "x")
    with pytest.raises(StoreError, match="no selection 'nope'.*cor-rait, grait"):
        explain(store, asked, "nope")


def test_explain_on_the_command_line(gradstore, store):
    identity = run_query(store, "SELECT sample_id FROM selections WHERE selection = 'grait' AND rank = 1").row(0)[0]
    code, text, _ = gradstore("explain", store.uri, identity[:12], "--selection", "grait", "--count", 2)
    assert code == 0
    assert "towards refusing:" in text
    assert "selection grait (method grait, " in text
    found = json.loads(gradstore("explain", store.uri, identity, "--count", 2, "--json")[1])
    assert len(found["towards"]) == 2
    assert gradstore("explain", store.uri)[0] == 2
    assert gradstore("explain", store.uri, "--question", " ")[0] == 2
    assert gradstore("explain", store.uri, identity, "--question", "Who?")[0] == 2
    code, _, said = gradstore("explain", store.uri, "--question", "Who?")
    assert code == 2
    assert "--question needs a text, and --model and --checkpoint" in said


# -- queries from files, what they cost, and how much is shown ----------------------------------------------------


def test_a_query_may_come_from_a_file_or_stdin(gradstore, store, tmp_path, monkeypatch):
    (tmp_path / "q.sql").write_text("SELECT COUNT(*) AS n FROM samples -- ü\n", encoding="utf-8")
    count = json.loads(gradstore("query", store.uri, f"@{tmp_path / 'q.sql'}", "--json")[1])
    assert count == [{"n": store.row_counts()["samples"]}]
    monkeypatch.setattr(sys, "stdin", io.StringIO("SELECT 7 AS n FROM samples LIMIT 1"))
    assert json.loads(gradstore("query", store.uri, "-", "--json")[1]) == [{"n": 7}]
    code, _, said = gradstore("query", store.uri, f"@{tmp_path / 'none.sql'}")
    assert (code, said.count("\n")) == (1, 1)
    assert "no query can be read from" in said


def test_explain_tells_bytes_read_and_vectors_are_read_only_when_named(gradstore, store):
    def read(sql):
        found = json.loads(gradstore("query", store.uri, sql, "--explain", "--json")[1])
        assert found["store_bytes"] > 0
        return found

    read("SELECT vector FROM gradients")  # what is imported on the way is read once
    whole, scalars = read("SELECT vector FROM gradients"), read("SELECT loss FROM gradients")
    size = whole["rows"] * 512 * 2
    assert size < whole["bytes_read"] < 2 * size
    assert scalars["bytes_read"] < whole["bytes_read"] / 5
    assert "PYTHON SCAN" in scalars["plan"]
    some = read("SELECT vector FROM gradients WHERE loss < 0.05")
    assert 0 < some["rows"] < whole["rows"] / 2
    assert some["bytes_read"] < whole["bytes_read"] * 0.8, "a filter reads about the vectors that it returns"


def test_lists_of_structs_are_json_in_csv(gradstore, store):
    near = "neighbours((SELECT sample_id FROM samples), 1000000000)"
    sql = f"SELECT sample_id, {near} AS n FROM gradients WHERE response = 'refusal' LIMIT 1"
    code, text, _ = gradstore("query", store.uri, sql, "--format", "csv")
    assert code == 0
    (row,) = csv.DictReader(io.StringIO(text))
    assert len(json.loads(row["n"])) > 50
    assert set(json.loads(row["n"])[0]) == {"sample_id", "similarity"}
    single = gradstore("query", store.uri, sql.replace(near, f"UNNEST({near})"), "--format", "csv")[1]
    assert json.loads(next(csv.DictReader(io.StringIO(single)))["n"])["similarity"] <= 1


def test_millions_of_rows_are_not_shown(gradstore, store, tmp_path):
    sql = "SELECT a.sample_id FROM gradients a CROSS JOIN gradients b"
    code, out, said = gradstore("query", store.uri, sql)
    assert (code, out) == (1, "")
    assert said == "error: more than 10,000 rows to be shown: add LIMIT, or write them with --format and --out FILE\n"


def test_the_ending_of_the_file_is_its_format(gradstore, store, tmp_path):
    sql, readers = "SELECT sample_id FROM samples LIMIT 3", {"parquet": pl.read_parquet, "ipc": pl.read_ipc}
    for ending, read in {**readers, "csv": pl.read_csv, "ndjson": pl.read_ndjson, "json": pl.read_json}.items():
        out = tmp_path / f"rows.{ending}"
        assert gradstore("query", store.uri, sql, "--out", out)[0] == 0
        assert read(out).height == 3, ending
    code, _, said = gradstore("query", store.uri, sql, "--out", tmp_path / "none" / "x.csv")
    assert (code, said.count("\n")) == (1, 1)
    assert "make it first" in said


def test_a_failed_query_leaves_the_file_that_was_there(gradstore, store, tmp_path):
    out = tmp_path / "rows.parquet"
    out.write_text("before")
    sql = "SELECT CAST(question AS BIGINT) AS n FROM samples"
    code, _, said = gradstore("query", store.uri, sql, "--format", "parquet", "--out", out)
    assert (code, said.count("\n")) == (1, 1)
    assert out.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["rows.parquet"]


# -- vectors kept for reading again --------------------------------------------------------------------------------


def test_the_cache_holds_what_the_store_holds_and_follows_its_version(store, tmp_path):
    shutil.copytree(store.uri, tmp_path / "store")
    copy = GradientStore.open(tmp_path / "store")
    clear_cache(copy)
    recipe, where = copy.recipe_ids()[0], "response = 'refusal'"
    ids, rows = cached_vectors(copy, recipe, where)
    blocks = list(copy.blocks(recipe, where=where))
    assert ids == [i for batch, _ in blocks for i in batch["sample_id"].to_pylist()]
    assert np.array_equal(rows, np.concatenate([block for _, block in blocks]))
    assert isinstance(rows, np.memmap)
    (place,) = (tmp_path / "store" / "_cache").iterdir()
    written = (place / "vectors.npy").stat().st_mtime_ns
    cached_vectors(copy, recipe, where)
    assert (place / "vectors.npy").stat().st_mtime_ns == written, "made twice for one version"
    fresh = (
        copy.scan(f"gradients_{recipe}").head(1).collect().with_columns(row_id=pl.lit("new"), sample_id=pl.lit("new"))
    )
    assert copy.write("gradients", fresh.to_arrow()).new == 1
    again, _ = cached_vectors(copy, recipe, "response IN ('refusal', 'answer')")
    assert "new" in again
    cached_vectors(copy, recipe, where)
    assert not place.exists(), "the older version's is removed"
    assert clear_cache(copy) > 0
    assert not (tmp_path / "store" / "_cache").exists()
    assert clear_cache(copy) == 0


def test_no_rows_and_a_folder_that_cannot_be_written_are_no_obstacle(store, tmp_path):
    shutil.copytree(store.uri, tmp_path / "store")
    copy = GradientStore.open(tmp_path / "store")
    recipe = copy.recipe_ids()[0]
    assert cached_vectors(copy, recipe, "response = 'neither'")[0] == []
    clear_cache(copy)
    (tmp_path / "store" / "_cache").write_text("in the way")
    ids, rows = cached_vectors(copy, recipe, "response = 'refusal'")
    assert len(ids) == len(rows) > 0
    with pytest.raises(StoreError, match="run `gradstore extract` first"):
        cached_vectors(copy, "nope", "true")


def test_several_may_lay_out_the_same_rows_at_once(store, tmp_path):
    shutil.copytree(store.uri, tmp_path / "store")
    copy = GradientStore.open(tmp_path / "store")
    recipe, where = copy.recipe_ids()[0], "response = 'answer'"
    expected = np.concatenate([block for _, block in copy.blocks(recipe, where=where)])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: cached_vectors(copy, recipe, where)[1], range(4)))
    assert all(isinstance(rows, np.memmap) and np.array_equal(rows, expected) for rows in found)
    assert len(list((tmp_path / "store" / "_cache").iterdir())) == 1, "halves are left behind"


def test_rows_that_are_read_once_are_only_those_that_are_wanted(store):
    recipe = store.recipe_ids()[0]
    whole = dict(zip(*read_vectors(store, recipe, "response = 'refusal' AND loss > 0"), strict=False))
    some = frozenset(sorted(whole)[:3])
    ids, rows = read_vectors(store, recipe, "response = 'refusal' AND loss > 0", wanted=some)
    assert set(ids) == some
    assert rows.base is None or rows.base.nbytes == rows.nbytes, "the others are held as well"


def test_gc_says_what_it_freed(gradstore, store):
    cached_vectors(store, store.recipe_ids()[0], "response = 'refusal'")
    assert json.loads(gradstore("gc", store.uri, "--json")[1])["freed_bytes"] > 0
    assert json.loads(gradstore("gc", store.uri, "--json")[1])["freed_bytes"] == 0


# -- while others write ------------------------------------------------------------------------------------------

WRITER = """
import sys, polars as pl
from gradstore.store import GradientStore
store = GradientStore.open(sys.argv[1])
table = "gradients_" + store.recipe_ids()[0]
rows = store.scan(table).head(16).collect()
for n in range(12):
    names = [f"{n}-{k}" for k in range(rows.height)]
    store.write("gradients", rows.with_columns(row_id=pl.Series(names), sample_id=pl.Series(names)).to_arrow())
    print(n, flush=True)
"""


def test_a_store_that_is_being_written_can_be_asked(store, tmp_path):
    """Each query sees whole commits, and never fewer rows than the one before."""
    shutil.copytree(store.uri, tmp_path / "store")
    copy = GradientStore.open(tmp_path / "store")
    group = "(SELECT sample_id FROM questions WHERE correctness < 0.5)"
    counts = []
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, copy.uri], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout.readline() == "0\n", writer.stderr.read()
        while writer.poll() is None:
            sql = f"SELECT COUNT(*) AS n, COUNT(influence({group})) AS scored FROM gradients"
            counts.append(run_query(copy, sql).row(0))
            cached_vectors(copy, copy.recipe_ids()[0], "response = 'refusal'")
        assert writer.returncode == 0, writer.stderr.read()
    before = store.row_counts()["gradients"]
    assert len(counts) > 1, "the writer was done before a second query: let it write more"
    assert [n for n, _ in counts] == sorted(n for n, _ in counts)
    assert all((n - before) % 16 == 0 for n, _ in counts)
    assert copy.row_counts()["gradients"] == before + 12 * 16
