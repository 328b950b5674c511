"""The printed tables are the Arrow schemas, and each table has one key that Lance holds unique."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

import gradstore.schemas
from gradstore.schemas import TABLES, gradients
from gradstore.schemas.tables import PRIMARY_KEY

FOLDER = Path(gradstore.schemas.__file__).parent


@pytest.mark.parametrize("name", TABLES)
def test_printed_file_equals_the_arrow_schema(name):
    stored = json.loads((FOLDER / f"{name}.json").read_text())
    assert stored == TABLES[name].printed(), "schemas/*.json is out of date: python -m gradstore.schemas schemas"


def test_every_printed_file_has_a_table_and_the_command_writes_the_same_bytes(tmp_path):
    subprocess.run([sys.executable, "-m", "gradstore.schemas", str(tmp_path)], check=True)
    written = {p.name: p.read_text() for p in tmp_path.iterdir()}
    assert written == {p.name: p.read_text() for p in FOLDER.glob("*.json")}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_exactly_one_key_first_not_null_and_known_to_lance(table):
    marked = [f.name for f in table.schema if set(PRIMARY_KEY) <= set(f.metadata)]
    assert marked == [table.schema.names[0]] == [table.key], "without its mark, two writers can store one key twice"
    first = table.schema.field(0)
    assert not first.nullable
    assert first.type == pa.string()
    assert {k: first.metadata[k] for k in PRIMARY_KEY} == PRIMARY_KEY


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_column_and_table_is_documented(table):
    assert table.row
    assert all(f.metadata[b"doc"].strip() for f in table.schema)
    assert len(set(table.schema.names)) == len(table.schema.names)


def test_a_gradient_table_differs_only_in_the_length_of_its_vectors():
    short, usual = gradients(8).schema, TABLES["gradients"].schema
    assert short.field("vector").type == pa.list_(pa.float16(), 8)
    assert [f for f in short if f.name != "vector"] == [f for f in usual if f.name != "vector"]
