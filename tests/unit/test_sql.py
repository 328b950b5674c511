"""SQL over a store: what a reader may ask, and everything else that is refused in one line."""

import re
import shutil

import polars as pl
import pyarrow as pa
import pytest

from gradstore.errors import QueryError
from gradstore.schemas import TABLES
from gradstore.store import GradientStore, query

QUESTIONS = ["Who?", "; DROP TABLE samples", "what is read_csv('x')"]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> GradientStore:
    store = GradientStore.create(tmp_path_factory.mktemp("sql") / "store")
    base = {"source": "qa", "role": "train", "task": "oeqa", "answer": "x"}
    rows = [
        base | {"sample_id": f"s{i}", "question": q, "ordinal": i, "subject": "art" if i else None}
        for i, q in enumerate(QUESTIONS)
    ]
    store.write("samples", pa.Table.from_pylist(rows, schema=TABLES["samples"].schema))
    member = {"row_id": "x", "group_id": "g", "sample_id": "s1", "name": "known", "definition": "{}"}
    store.write("groups", pa.Table.from_pylist([member], schema=TABLES["groups"].schema))
    return store


@pytest.fixture(scope="module")
def secret(tmp_path_factory) -> str:
    """A file that no query may read, in every format that Polars scans."""
    path = tmp_path_factory.mktemp("files") / "secret"
    frame = pl.DataFrame({"sample_id": ["s1"], "password": ["hunter2"]})
    frame.write_csv(f"{path}.csv")
    frame.write_parquet(f"{path}.parquet")
    frame.write_ipc(f"{path}.ipc")
    frame.write_ndjson(f"{path}.json")
    return str(path)


def refused(store: GradientStore, sql: str) -> str:
    """The message of a refusal: one line that tells no contents."""
    with pytest.raises(QueryError) as caught:
        query(store, sql).collect()
    message = str(caught.value)
    assert "\n" not in message
    assert "\x1b" not in message
    assert "hunter2" not in message
    return message


CALLS = ["read_csv('{}.csv')", "READ_CSV('{}.csv')", "read_parquet('{}.parquet')", "read_ipc('{}.ipc')"]
CALLS += ["read_json('{}.json')", "read_ndjson('{}.json')", "scan_parquet('{}.parquet')", "parquet_scan('{}.parquet')"]
CALLS += ["\"read_csv\"('{}.csv')", "glob('{}*')", "read_text('{}.csv')", "read_blob('{}.csv')"]
PLACES = {
    "FROM": "SELECT * FROM {}",
    "alias": "SELECT * FROM {} AS samples",
    "JOIN": "SELECT * FROM samples JOIN {} AS r ON true",
    "USING": "SELECT * FROM samples LEFT JOIN {} USING (sample_id)",
    "comma": "SELECT * FROM samples, {}",
    "CTE": "WITH x AS (SELECT * FROM {}) SELECT * FROM x",
    "shadow": "WITH samples AS (SELECT * FROM {}) SELECT * FROM samples",
    "subquery": "SELECT * FROM (SELECT * FROM {}) AS q",
    "IN": "SELECT * FROM samples WHERE sample_id IN (SELECT sample_id FROM {})",
    "scalar": "SELECT (SELECT count(*) FROM {}) AS n FROM samples",
    "EXISTS": "SELECT * FROM samples WHERE EXISTS (SELECT 1 FROM {})",
    "UNION": "SELECT sample_id FROM samples UNION ALL SELECT sample_id FROM {}",
    "comment": "SELECT * FROM/**/{} -- samples",
    "parentheses": "(SELECT * FROM ({}))",
}


@pytest.mark.parametrize("place", PLACES)
def test_no_query_reads_a_file_by_a_function(store, secret, place):
    for call in CALLS:
        message = refused(store, PLACES[place].format(call.format(secret)))
        assert "files" in message or "does not parse" in message, message


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["'{}.csv'", '"{}.csv"', '"{}.parquet"', "'file://{}.csv'", '"samples"."{}.csv"'])
def test_no_query_reads_a_file_by_its_name(store, secret, place, name):
    message = refused(store, PLACES[place].format(name.format(secret)))
    assert any(said in message for said in ("no table", "not a table of the store", "does not parse")), message


@pytest.mark.parametrize("call", ["read_csv('{}.csv')", "scan_parquet('{}.parquet')", "READ_JSON('{}.json')"])
@pytest.mark.parametrize("sql", ["SELECT {}", "SELECT * FROM samples WHERE {}", "SELECT * FROM samples ORDER BY {}"])
def test_no_query_reads_a_file_by_an_expression(store, secret, sql, call):
    assert "reads files, which a query cannot do" in refused(store, sql.format(call.format(secret)))


def test_polars_still_writes_scans_of_files_into_its_plans(store, secret):
    """The last guard reads the plan: it must know a scan of a file from one of a Lance table by its name."""
    frames = (pl.scan_csv(f"{secret}.csv"), pl.scan_parquet(f"{secret}.parquet"), pl.scan_ndjson(f"{secret}.json"))
    for frame in frames:
        scans = re.findall(r"^\s*(\w+) SCAN ", frame.explain(optimized=False), flags=re.MULTILINE)
        assert scans, "Polars names scans otherwise now: query() would no longer notice one of a file"
        assert "PYTHON" not in scans
    assert "PYTHON SCAN " in query(store, "SELECT * FROM samples").explain(optimized=False)


def test_a_cte_does_not_lend_its_name_to_a_file(store, secret):
    sql = 'SELECT * FROM (WITH "{0}.csv" AS (SELECT 1 AS one) SELECT * FROM "{0}.csv") a, "{0}.csv" b'
    assert "no table" in refused(store, sql.format(secret)) or "names no table" in refused(store, sql.format(secret))


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE samples",
        "DELETE FROM samples",
        "TRUNCATE TABLE samples",
        "CREATE TABLE x AS SELECT * FROM samples",
        "CREATE OR REPLACE VIEW samples AS SELECT 1",
        "INSERT INTO samples SELECT * FROM samples",
        "UPDATE samples SET question = 'x'",
        "MERGE INTO samples USING groups ON true WHEN MATCHED THEN DELETE",
        "ALTER TABLE samples DROP COLUMN answer",
        "COPY samples TO 'x.csv'",
        "COPY (SELECT * FROM samples) TO 'x.csv'",
        "SHOW TABLES",
        "DESCRIBE samples",
        "EXPLAIN SELECT * FROM samples",
        "ATTACH 'x.db' AS x",
        "PRAGMA database_list",
        "INSTALL httpfs",
        "SET x = 1",
        "VALUES (1)",
        "SELEC question FROM samples",
    ],
)
def test_anything_but_select_is_refused_and_nothing_changes(store, sql):
    before = store.versions()
    message = refused(store, sql)
    assert "write one SELECT over the store's tables" in message, "the way out is missing"
    assert store.versions() == before
    assert query(store, "SELECT * FROM samples").collect().height == 3


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * INTO x FROM samples",
        "WITH d AS (DELETE FROM samples RETURNING *) SELECT * FROM d",
        "WITH d AS (INSERT INTO samples SELECT * FROM samples RETURNING *) SELECT * FROM d",
    ],
)
def test_a_select_that_writes_is_refused(store, sql):
    assert "a query cannot write" in refused(store, sql)


@pytest.mark.parametrize(
    ("sql", "count"),
    [("", 0), (" ; ", 0), ("-- nothing", 0), ("SELECT 1; SELECT 2", 2), ("SELECT 1 AS a; DROP TABLE samples;", 2)],
)
def test_exactly_one_statement(store, sql, count):
    assert refused(store, sql).startswith(f"{count} statements came, expected one: write one SELECT")


@pytest.mark.parametrize("sql", ["SELECT", "SELECT * FROM", "SELECT 'open", "SELECT * FROM samples WHERE", "(("])
def test_what_does_not_parse_says_so(store, sql):
    assert "write one SELECT over the store's tables" in refused(store, sql)


def test_what_is_nested_too_deeply_says_so(store):
    assert "nested too deeply" in refused(store, f"SELECT {'(' * 5000}1{')' * 5000} FROM samples")


@pytest.mark.parametrize("name", ["nope", "SAMPLES", "sample", "gradients_r"])
def test_an_unknown_table_lists_tables_and_views(store, name):
    message = refused(store, f"SELECT * FROM {name}")
    assert message == f"no table {name!r}: there are {', '.join(sorted([*TABLES, 'questions', 'records']))}"


@pytest.mark.parametrize(
    "sql", ["SELECT 1", "SELECT 1 AS x UNION ALL SELECT 2", "WITH x AS (SELECT 1 AS n) SELECT n FROM x"]
)
def test_a_query_without_a_table_lists_them_too(store, sql):
    assert refused(store, sql).startswith("this query names no table: there are checkpoints, evaluations, ")


def test_an_unknown_column_lists_the_columns_there_are(store):
    message = refused(store, "SELECT colour FROM samples")
    assert "colour" in message
    assert '"sample_id", "source", "split"' in message


def test_an_unsupported_function_names_the_columns_of_the_tables_used(store):
    message = refused(store, "SELECT shout(question) FROM samples JOIN groups USING (sample_id)")
    assert "unsupported function 'shout'" in message
    assert "groups has row_id, group_id, " in message
    assert "samples has sample_id, " in message
    assert "probes" not in message


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT question FROM samples WHERE question = '; DROP TABLE samples'", [(QUESTIONS[1],)]),
        ("SELECT question FROM samples WHERE question LIKE '%read_csv(%'", [(QUESTIONS[2],)]),
        ("SELECT 'SELECT 1; SELECT 2' AS text FROM samples LIMIT 1", [("SELECT 1; SELECT 2",)]),
        ("SELECT ordinal FROM samples WHERE sample_id IN ('s0', 's2') ORDER BY ordinal", [(0,), (2,)]),
        ("SELECT ordinal FROM samples ORDER BY ordinal DESC LIMIT 1;", [(2,)]),
        ("SELECT subject, count(*) AS n FROM samples GROUP BY subject HAVING count(*) > 1", [("art", 2)]),
        ('SELECT g.name AS "group" FROM groups g JOIN samples s ON s.sample_id = g.sample_id', [("known",)]),
        ('WITH "select" AS (SELECT ordinal AS "order" FROM samples) SELECT max("order") AS m FROM "select"', [(2,)]),
        ("WITH a AS (SELECT * FROM samples), b AS (SELECT * FROM a WHERE ordinal > 1) SELECT ordinal FROM b", [(2,)]),
        ("SELECT 1 AS x FROM samples UNION ALL SELECT 1 AS x FROM samples WHERE ordinal = 1", [(1,)] * 4),
        ("SELECT ordinal, row_number() OVER (ORDER BY ordinal DESC) AS r FROM samples ORDER BY r LIMIT 1", [(2, 1)]),
        ("SELECT ordinal::varchar AS t FROM samples WHERE ordinal = 1", [("1",)]),
        ("SELECT (SELECT max(ordinal) FROM samples) AS m", [(2,)]),
        ("SELECT count(*) AS n FROM gradients", [(0,)]),
        ("SELECT count(*) AS n FROM records", [(0,)]),
    ],
)
def test_what_a_reader_may_ask(store, sql, rows):
    """Also again and again: from the second time on, scalar columns come from memory."""
    for _ in range(4):
        assert query(store, sql).collect().rows() == rows


def test_every_table_and_view_can_be_asked(store):
    for name in [*TABLES, "questions", "records"]:
        assert query(store, f"SELECT * FROM {name} LIMIT 1").collect().width > 3


def test_planning_a_query_reads_no_rows_and_more_can_follow(store):
    frame = query(store, "SELECT sample_id, ordinal FROM samples")
    assert isinstance(frame, pl.LazyFrame)
    assert frame.filter(pl.col("ordinal") == 1).collect()["sample_id"].to_list() == ["s1"]


# -- columns held in memory ------------------------------------------------------------------------------------


def held(store: GradientStore, table: str) -> list[str]:
    return store.warm._tables[table].frame.columns


def test_columns_that_are_asked_for_again_are_held_until_the_table_changes(store, tmp_path):
    shutil.copytree(store.uri, tmp_path / "store")
    copy, sql = GradientStore.open(tmp_path / "store"), "SELECT MAX(ordinal) AS n FROM samples WHERE subject = 'art'"
    assert query(copy, sql).collect().item() == 2
    assert held(copy, "samples") == [], "one query alone keeps nothing"
    assert query(copy, sql).collect().item() == 2
    assert set(held(copy, "samples")) == {"sample_id", "subject", "ordinal"}
    plan = query(copy, sql).explain()
    assert "PYTHON SCAN" not in plan, "it is read again"
    row = {"sample_id": "s9", "source": "qa", "role": "train", "task": "oeqa", "answer": "x", "question": "New?"}
    new = pa.Table.from_pylist([row | {"subject": "art", "ordinal": 9}], schema=TABLES["samples"].schema)
    copy.write("samples", new)
    assert [query(copy, sql).collect().item() for _ in range(3)] == [9, 9, 9], "what is held is out of date"


def test_a_wrong_column_lists_all_there_are_also_when_some_are_held(store):
    for _ in range(3):
        query(store, "SELECT ordinal FROM samples").collect()
    assert '"sample_id", "source", "split"' in refused(store, "SELECT ordinal, colour FROM samples")


@pytest.mark.parametrize(
    "sql", ["SELECT * FROM samples", "SELECT s.* FROM samples s", "SELECT * EXCLUDE (role) FROM samples"]
)
def test_a_star_means_every_column_whatever_is_held(store, sql):
    for _ in range(3):
        query(store, "SELECT ordinal FROM samples").collect()
        assert query(store, sql).collect().width >= len(TABLES["samples"].schema.names) - 1


def test_what_is_too_large_to_hold_is_read_again(store, tmp_path, monkeypatch):
    monkeypatch.setattr("gradstore.store.warm.ROOM", 10)
    shutil.copytree(store.uri, tmp_path / "store")
    copy = GradientStore.open(tmp_path / "store")
    for _ in range(4):
        assert query(copy, "SELECT COUNT(question) AS n FROM samples").collect().item() == 3
    assert held(copy, "samples") == []
    assert copy.warm._tables["samples"].too_large, "it would be read whole for every query"
