"""The store: what is written is read, once; what does not fit is refused whole."""

import shutil
import subprocess
import sys
from pathlib import Path

import lancedb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from gradstore.errors import SchemaError, StoreError
from gradstore.identity import row_id
from gradstore.schemas import TABLES
from gradstore.store import GradientStore, Written, query


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Path:
    return Path(GradientStore.create(tmp_path_factory.mktemp("empty") / "store").uri)


@pytest.fixture
def store(empty, tmp_path) -> GradientStore:
    """An empty store of one's own; copying one is faster than making it."""
    return GradientStore.open(shutil.copytree(empty, tmp_path / "store"))


def samples(ids, **columns) -> pa.Table:
    row = {"source": "qa", "role": "train", "task": "oeqa", "question": "Who?", "answer": "I", "ordinal": 0}
    table = pa.Table.from_pylist([{"sample_id": i, **row} for i in ids], schema=TABLES["samples"].schema)
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, pa.array(values))
    return table


def vectors(ids, dim=4, recipe="r", response="refusal", checkpoint="c", seed=0, **columns) -> pa.Table:
    values = np.random.default_rng(seed).normal(size=len(ids) * dim).astype(np.float16)
    data = {
        "row_id": [row_id(i, response, checkpoint, recipe) for i in ids],
        "sample_id": ids,
        "response": [response] * len(ids),
        "checkpoint_id": [checkpoint] * len(ids),
        "recipe_id": [recipe] * len(ids),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(values), dim),
        "norm": pa.array(range(len(ids)), pa.float32()),
        "loss": pa.array([0.5] * len(ids), pa.float32()),
        "n_tokens": pa.array([5] * len(ids), pa.int32()),
        "status": ["ok"] * len(ids),
    }
    return pa.table(data | columns)


def streamed(store: GradientStore, recipe="r", **options) -> dict[str, list[float]]:
    found = {}
    for batch, block in store.blocks(recipe, **options):
        assert block.dtype == np.uint16
        assert len(batch) == len(block)
        rows = block.view(np.float16).tolist()
        found |= dict(zip(batch["sample_id"].to_pylist(), rows, strict=True))
    return found


def written(table: pa.Table) -> dict[str, list[float]]:
    return dict(zip(table["sample_id"].to_pylist(), table["vector"].to_pylist(), strict=True))


# -- create and open ----------------------------------------------------------------------------------------


def test_a_new_store_has_every_table_empty(store):
    assert store.row_counts() == dict.fromkeys(TABLES, 0)
    assert store.recipe_ids() == []
    assert store.row_counts()["samples"] == 0


def test_create_opens_the_store_that_is_there(store):
    store.write("samples", samples(["a"]))
    assert GradientStore.create(store.uri).keys("samples") == {"a"}


def test_open_needs_a_store(tmp_path):
    with pytest.raises(StoreError, match=r"no store at .*/nowhere: `gradstore ingest .*/nowhere FILE"):
        GradientStore.open(tmp_path / "nowhere")


@pytest.mark.parametrize("what", ["file", "folder"])
def test_create_leaves_alone_what_is_in_the_way(tmp_path, what):
    path = tmp_path / "mine"
    if what == "file":
        path.write_text("mine")
    else:
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="is not a store, and not an empty folder: give a new path"):
        GradientStore.create(path)
    assert [p.name for p in sorted(tmp_path.rglob("*"))] == (["mine"] if what == "file" else ["mine", "notes.txt"])


def test_create_takes_an_empty_folder(tmp_path):
    assert GradientStore.create(tmp_path).row_counts()["samples"] == 0


def test_a_create_that_was_killed_is_simply_done_again(store):
    for left_out in ("runs", "samples"):
        shutil.rmtree(Path(store.uri) / f"{left_out}.lance")
    with pytest.raises(StoreError, match="no store at"):
        GradientStore.open(store.uri)
    assert GradientStore.create(store.uri).row_counts() == dict.fromkeys(TABLES, 0)


@pytest.mark.parametrize(("metadata", "found"), [({"gradstore.format": "2"}, "2"), ({}, r"\?")])
def test_a_store_of_another_format_is_not_read(tmp_path, metadata, found):
    schema = TABLES["runs"].schema.with_metadata(metadata)
    lancedb.connect(str(tmp_path)).create_table("runs", schema=schema)
    with pytest.raises(StoreError, match=f"has store format {found}, this version reads 1"):
        GradientStore.open(tmp_path)


# -- write ---------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(store):
    rows = samples(["a", "b"], question=["é {x}", "北京"], aliases=[["x", "y"], []], ordinal=[0, 2**40])
    assert store.write("samples", rows) == Written(new=2)
    found = store.scan("samples").sort("sample_id").collect()
    assert found.to_dicts() == rows.to_pylist()


def test_writing_twice_adds_nothing_and_makes_no_new_version(store):
    for table, rows in (("samples", samples(["a", "b"])), ("gradients", vectors(["a", "b"]))):
        store.write(table, rows)
        before = store.versions()
        assert store.write(table, rows) == Written(skipped=2)
        assert store.versions() == before, "a stage that has nothing to do would still grow the store"
        assert store.row_counts()[table] == 2


def test_only_the_rows_that_are_new_are_added_and_the_old_ones_stay(store):
    store.write("samples", samples(["a"], question=["old"]))
    assert store.write("samples", samples(["b", "a"], question=["new", "new"])) == Written(new=1, skipped=1)
    assert dict(store.scan("samples").select("sample_id", "question").collect().iter_rows()) == {"a": "old", "b": "new"}


def test_a_key_repeated_within_one_write_is_stored_once_and_the_first_counts(store):
    rows = samples(["a", "b", "a"], question=["first", "b", "second"])
    assert store.write("samples", rows) == Written(new=2, skipped=1)
    found = dict(store.scan("samples").select("sample_id", "question").collect().iter_rows())
    assert found == {"a": "first", "b": "b"}


def test_replace_overwrites_the_rows_of_a_key(store):
    store.write("samples", samples(["a", "b"], question=["old", "old"]))
    assert store.write("samples", samples(["a", "c"], question=["new", "new"]), replace=True) == Written(1, 1)
    found = dict(store.scan("samples").select("sample_id", "question").collect().iter_rows())
    assert found == {"a": "new", "b": "old", "c": "new"}


def test_more_rows_than_a_commit_holds(store):
    ids = [f"s{i:04}" for i in range(2500)]
    before = store.versions(["samples"])["samples"]
    assert store.write("samples", samples(ids)) == Written(new=2500)
    assert store.write("samples", samples([*ids, "x"])) == Written(new=1, skipped=2500)
    assert store.keys("samples") == {*ids, "x"}
    assert store.versions(["samples"])["samples"] - before == 4


def test_batches_tables_and_nothing_can_be_written(store):
    rows = samples(["a", "b"])
    batch = rows.to_batches()[0]
    assert store.write("samples", batch) == Written(new=2)
    assert store.write("samples", iter([samples(["c"]).to_batches()[0], batch])) == Written(new=1, skipped=2)
    assert store.write("samples", rows.slice(0, 0)) == Written()
    assert store.write("samples", iter([])) == Written()
    assert store.write("gradients", iter([])) == Written()


def test_columns_may_come_in_any_order_and_null_ones_may_be_left_out(store):
    names = ["ordinal", "answer", "question", "task", "role", "source", "sample_id"]
    store.write("samples", samples(["a"]).select(names))
    row = store.scan("samples").collect().row(0, named=True)
    assert list(row) == TABLES["samples"].schema.names
    assert row["choices"] is None


def test_a_quote_in_a_key_is_a_key(store):
    ids = ["it's", "a' OR '1'='1", "x"]
    store.write("samples", samples(ids))
    assert store.write("samples", samples(ids)) == Written(skipped=3)


BAD_SAMPLES = {
    "null": (samples(["a", "b"], question=["x", None]), r"samples.question may not be null, 1 nulls came"),
    "null key": (samples(["a", "b"], sample_id=["a", None]), r"samples.sample_id may not be null"),
    "type": (samples(["a"], ordinal=["first"]), r"samples.ordinal takes int64, string came"),
    "fraction": (samples(["a"], ordinal=[1.5]), r"samples.ordinal takes int64, double came"),
    "shape": (samples(["a"], choices=[7]), r"samples.choices takes list<.*string>, int64 came"),
    "unknown": (samples(["a"]).append_column("x", [["y"]]), r"not in the table \['x'\]"),
    "missing": (samples(["a"]).drop_columns(["task", "role"]), r"columns missing \['role', 'task'\]"),
}


@pytest.mark.parametrize("case", BAD_SAMPLES)
def test_rows_that_do_not_fit_are_refused_whole(store, case):
    rows, message = BAD_SAMPLES[case]
    with pytest.raises(SchemaError, match=message):
        store.write("samples", rows)
    assert store.row_counts()["samples"] == 0


# -- vectors -------------------------------------------------------------------------------------------------


def with_vector(values, ids=("a", "b"), **columns) -> pa.Table:
    array = pa.array([None if v is None else np.asarray(v, np.float16) for v in values], pa.list_(pa.float16(), 2))
    return vectors(list(ids), vector=array, **columns)


BAD_VECTORS = {
    "NaN": (with_vector([[0, 1], [np.nan, 0]]), "1 rows with status ok are not finite, first sample b"),
    "overflow": (with_vector([[0, np.inf], [1, 0]]), "1 rows with status ok are not finite, first sample a"),
    "none": (with_vector([None, [1, 0]]), "a row with status ok came without a vector"),
    "float32": (vectors(["a"], vector=pa.array([[1.0]], pa.list_(pa.float32(), 1))), r"vector came as .*float"),
    "ragged": (vectors(["a"], vector=pa.array([[1.0]])), r"came as list<.*expected fixed_size_list<float16>\[dim\]"),
    "no vectors": (vectors(["a"]).drop_columns(["vector"]), r"gradients.vector came as .*expected fixed_size_list"),
    "no recipe": (vectors(["a"]).drop_columns(["recipe_id"]), r"columns missing \['recipe_id'\]"),
    "null recipe": (vectors(["a", "b"], recipe_id=["r", None]), "gradients.recipe_id may not be null, 1 nulls came"),
    "null token count": (vectors(["a"], n_tokens=pa.array([None], pa.int32())), "gradients.n_tokens may not be null"),
}


@pytest.mark.parametrize("case", BAD_VECTORS)
def test_gradients_that_do_not_fit_are_refused_whole(store, case):
    rows, message = BAD_VECTORS[case]
    with pytest.raises(SchemaError, match=message):
        store.write("gradients", rows)
    assert store.recipe_ids() == [], "a table was made for rows that were refused"


def test_another_dimension_is_refused_and_so_is_all_that_came_with_it(store):
    store.write("gradients", vectors(["a"], dim=4, recipe="old"))
    both = pa.concat_tables([vectors(["b"], dim=8, recipe="new"), vectors(["b"], dim=8, recipe="old")])
    with pytest.raises(SchemaError, match="recipe old holds vectors of 4 floats, 8 came"):
        store.write("gradients", both)
    assert store.row_counts()["gradients"] == 1, "half of a refused write was stored"
    assert store.recipe_ids() == ["old"]


def test_rows_without_vectors_are_kept_when_their_status_says_why(store):
    rows = with_vector([None, [1, 0]], status=["nan", "ok"])
    assert store.write("gradients", rows) == Written(new=2)
    found = store.scan("gradients_r").sort("sample_id").collect()
    assert found["status"].to_list() == ["nan", "ok"]
    assert streamed(store) == {"b": [1, 0]}


@pytest.mark.parametrize("rows", [1, 7, 1024])
def test_blocks_stream_what_was_written(store, rows):
    table = vectors([f"s{i:02}" for i in range(30)], dim=5)
    for start in (0, 13):
        store.write("gradients", table.slice(start, 17))
    assert streamed(store, rows=rows) == written(table)
    assert all(len(block) <= rows and block.shape[1] == 5 for _, block in store.blocks("r", rows=rows))


def test_blocks_leave_out_rows_that_are_not_ok_also_under_an_or(store):
    status = ["ok", "zero", "ok", "nan", "truncated"]
    table = vectors(list("abcde"), status=status)
    store.write("gradients", table)
    assert streamed(store) == {i: v for i, v in written(table).items() if i in "ac"}
    for where in ("sample_id = 'b' OR sample_id = 'c'", "sample_id = 'c' OR sample_id = 'b'"):
        assert set(streamed(store, where=where)) == {"c"}, "OR let in a row whose status is not ok"


def test_blocks_narrow_by_where_and_carry_the_columns_asked_for(store):
    for response in ("answer", "refusal"):
        store.write("gradients", vectors(list("abc"), response=response, seed=len(response)))
    found = list(store.blocks("r", where="response = 'answer'", columns=["norm", "response"]))
    assert [b.schema.names for b, _ in found] == [["sample_id", "norm", "response"]]
    assert found[0][0]["response"].to_pylist() == ["answer"] * 3
    assert streamed(store, where="response = 'answer'") == written(vectors(list("abc"), seed=6))
    assert streamed(store, where="response = 'nothing'") == {}


def test_blocks_of_an_unknown_recipe_say_what_to_run(store):
    with pytest.raises(StoreError, match=r"no gradients of recipe x .*gradstore extract"):
        next(store.blocks("x"))


def test_recipes_of_other_dimensions_live_together(store):
    small, large = vectors(["a", "b"], dim=2, recipe="r2"), vectors(["a"], dim=8, recipe="r8")
    store.write("gradients", small)
    store.write("gradients", large)
    assert store.recipe_ids() == ["r2", "r8"]
    assert streamed(store, "r2") == written(small)
    assert streamed(store, "r8") == written(large)
    assert store.keys("gradients") == {*small["row_id"].to_pylist(), *large["row_id"].to_pylist()}
    found = query(store, "SELECT recipe_id, sample_id, vector FROM gradients ORDER BY recipe_id, sample_id").collect()
    assert found["vector"].list.len().to_list() == [2, 2, 8]
    assert found["vector"][2].to_list() == written(large)["a"]


# -- read ----------------------------------------------------------------------------------------------------


def test_an_unknown_table_lists_those_there_are(store):
    with pytest.raises(StoreError, match=r"no table 'nope' in .*: there are checkpoints, evaluations, groups"):
        store.scan("nope")


def test_an_older_version_is_read_as_it_was(store):
    store.write("samples", samples(["a"]))
    then = store.versions(["samples"])["samples"]
    store.write("samples", samples(["b"]))
    assert store.keys("samples", version=then) == {"a"}
    assert store.scan("samples", version=then).collect().height == 1
    assert store.keys("samples") == {"a", "b"}


def test_tags_keep_the_present_version_and_may_be_moved(store):
    def tagged() -> int:
        return lancedb.connect(store.uri).open_table("samples").tags.list()["t"]["version"]

    store.tag("t", ["samples", "probes"])
    first = tagged()
    store.write("samples", samples(["a"]))
    store.tag("t", ["samples"])
    assert tagged() > first


def test_only_derived_rows_can_be_deleted(store):
    member = {"row_id": "x", "group_id": "g", "sample_id": "a", "name": "n", "definition": "{}"}
    store.write("groups", pa.Table.from_pylist([member, member | {"row_id": "y"}], schema=TABLES["groups"].schema))
    store.delete("groups", "row_id = 'x'")
    assert store.keys("groups") == {"y"}
    store.write("samples", samples(["a"]))
    for table in set(TABLES) - {"selections", "groups", "influence", "evaluations", "metrics"}:
        with pytest.raises(StoreError, match=f"{table} holds measurements, which are immutable"):
            store.delete(table, "true")
    assert store.keys("samples") == {"a"}


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="bytes read are counted by Linux only")
def test_a_query_over_scalars_does_not_read_vectors(store):
    n, dim = 1500, 4096
    store.write("gradients", vectors([f"s{i}" for i in range(n)], dim=dim))
    store.write("samples", samples(["s7"]))
    whole = n * dim * 2

    def cost(work) -> int:
        before = bytes_read()
        work()
        return bytes_read() - before

    assert cost(lambda: streamed(store)) >= whole, "the counter does not see Lance's reads: this test tests nothing"
    for sql in (
        "SELECT status, count(*) AS n FROM gradients GROUP BY status",
        "SELECT sample_id, norm FROM gradients WHERE sample_id = 's7'",
        "SELECT r.sample_id, r.refusal_norm FROM records r",
    ):
        found = []
        spent = cost(lambda sql=sql, found=found: found.append(query(store, sql).collect().height))
        assert found == [1]
        assert spent < whole / 8, f"{spent:,} of {whole:,} bytes of vectors were read for: {sql}"


def probes(rows) -> pa.Table:
    base = {"model_id": "m", "prompt_id": "p", "correctness": 0.5, "n_samples": 0, "status": "ok"}
    return pa.Table.from_pylist(
        [base | {"row_id": row_id(r["sample_id"], r["probe_id"])} | r for r in rows], schema=TABLES["probes"].schema
    )


def test_records_hold_one_row_a_sample_checkpoint_and_recipe(store):
    store.write("samples", samples(["a", "b", "c"], question=["qa", "qb", "qc"]))
    initial = {"probe_id": "p0", "certainty": 0.25}
    store.write(
        "probes",
        probes([{"sample_id": "a", **initial}, {"sample_id": "a", "probe_id": "p1", "checkpoint_id": "c1"}]),
    )
    for recipe, dim in (("r2", 2), ("r4", 4)):
        for checkpoint in ("c1", "c2"):
            for response, ids in (("answer", ["a"]), ("refusal", ["a", "b"])):
                store.write("gradients", vectors(ids, dim, recipe, response, checkpoint, seed=dim))
    found = query(store, "SELECT * FROM records").collect()
    keys = found.select("sample_id", "checkpoint_id", "recipe_id").rows()
    assert sorted(keys) == sorted((i, c, r) for i in "ab" for c in ("c1", "c2") for r in ("r2", "r4"))
    a, b = (found.filter(pl.col("sample_id") == i, recipe_id="r4", checkpoint_id="c1").row(0, named=True) for i in "ab")
    assert (a["question"], a["certainty"], a["probe_id"], a["answer_status"]) == ("qa", 0.25, "p0", "ok")
    assert len(a["answer_vector"]) == len(a["refusal_vector"]) == 4
    assert (b["question"], b["certainty"], b["answer_vector"], b["refusal_norm"]) == ("qb", None, None, 1.0)


# -- two writers ---------------------------------------------------------------------------------------------

WRITER = """
import sys, time, pathlib
import pyarrow as pa
from gradstore.schemas import TABLES, gradients
from gradstore.store import GradientStore, Written
uri, me = sys.argv[1:]
store = GradientStore.open(uri)
folder = pathlib.Path(uri).parent
(folder / f"ready-{me}").touch()
while len(list(folder.glob("ready-*"))) < 2:
    time.sleep(0.005)
total = Written()
for start in range(0, 24, 8):
    ids = [f"s{i:02}" for i in range(start, start + 8)]
    member = [{"row_id": i, "group_id": me, "sample_id": i, "name": "n", "definition": ""} for i in ids]
    total += store.write("groups", pa.Table.from_pylist(member, schema=TABLES["groups"].schema))
    row = {"response": "refusal", "checkpoint_id": "c", "recipe_id": "r", "n_tokens": 1, "status": "zero"}
    rows = [{"row_id": i, "sample_id": i, **row} for i in ids]
    total += store.write("gradients", pa.Table.from_pylist(rows, schema=gradients(4).schema))
print(total.new, total.skipped)
"""


def test_two_writers_of_the_same_new_keys_store_each_once(store):
    command = [sys.executable, "-c", WRITER, store.uri]
    writers = [subprocess.Popen([*command, me], stdout=subprocess.PIPE, text=True) for me in "ab"]
    counts = [list(map(int, w.communicate(timeout=60)[0].split())) for w in writers]
    assert [w.returncode for w in writers] == [0, 0]
    for table in ("groups", "gradients_r"):
        held = store.scan(table).collect()["row_id"].to_list()
        assert sorted(held) == sorted(set(held)), "a key is stored twice: Lance was not told what the key is"
        assert len(held) == 24
    assert sum(new for new, _ in counts) == 48, f"the writers say they added {counts}, 48 rows are there"
    assert [sum(c) for c in counts] == [48, 48]
