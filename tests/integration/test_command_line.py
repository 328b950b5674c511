"""The command line: results, exit codes, and one clear line for each kind of bad input."""

import json
import shutil

import polars as pl
import pytest

from gradstore.cli.main import COMMANDS, cli
from gradstore.store import GradientStore


def one_line(result, code, *parts):
    """The command failed with ``code`` and one line that holds every part."""
    assert result[0] == code, result[2]
    assert len(result[2].strip().splitlines()) == 1, result[2]
    assert "Traceback" not in result[2]
    missing = [p for p in parts if p not in result[2]]
    assert not missing, f"{result[2]!r} does not say {missing}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_an_example(name):
    command = cli.get_command(None, name)
    children = list(getattr(command, "commands", {}).values()) or [command]
    assert all("Example: gradstore" in (c.help or "") for c in children)
    assert COMMANDS[name][1].endswith(".")


def test_wrong_usage_is_exit_code_two(gradstore, tmp_path):
    assert gradstore("nope")[0] == 2
    assert gradstore("ingest", tmp_path / "s")[0] == 2
    assert gradstore("select", tmp_path / "s", "--name", "g", "--known", "many")[0] == 2
    assert gradstore("ingest", tmp_path / "s", "f", "--preset", "qa", "--field", "question")[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_or_preset_makes_no_store(gradstore, tmp_path):
    store = tmp_path / "s"
    one_line(gradstore("ingest", store, tmp_path / "no.json", "--preset", "nq"), 1, "no.json")
    model = ["--model", tmp_path / "nomodel"]
    one_line(gradstore("build", store, "--data", tmp_path / "q.jsonl", "--preset", "qa", *model), 1, "no model folder")
    (tmp_path / "q.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    one_line(
        gradstore("ingest", store, tmp_path / "q.jsonl", "--preset", "squad"), 1, "squad", "mmlu", "arc", "nq", "qa"
    )
    one_line(gradstore("ingest", store, tmp_path / "q.jsonl", "--preset", "arc"), 1, "q.jsonl", "use --preset")
    assert not store.exists(), "bad input left something that has to be undone"


@pytest.mark.parametrize("command", ["info", "query", "probe", "select", "export"])
def test_a_missing_store_says_how_to_make_one(gradstore, tmp_path, command):
    more = {
        "query": ["SELECT 1"],
        "probe": ["--model", "m"],
        "select": ["--name", "g"],
        "export": ["g", "--to", "trl", "--out", tmp_path / "o"],
    }
    one_line(gradstore(command, tmp_path / "s", *more.get(command, [])), 1, "no store at", "gradstore ingest")
    assert list(tmp_path.iterdir()) == []


def test_a_model_folder_without_weights(gradstore, world, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(world.options.model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    one_line(gradstore("probe", world.store_uri, "--model", folder), 1, "no weights", str(folder), "safetensors")
    one_line(gradstore("probe", world.store_uri, "--model", tmp_path / "no"), 1, "no model folder", "config.json")


def test_a_folder_that_is_not_a_checkpoint(gradstore, world, tmp_path):
    model = ["--model", world.options.model, "--device", "cpu"]
    one_line(
        gradstore("extract", world.store_uri, *model, "--checkpoint", tmp_path),
        1,
        "checkpoint.json",
        "gradstore register",
    )
    one_line(gradstore("register", world.store_uri, tmp_path / "no", *model), 1, "no checkpoint folder")


@pytest.mark.parametrize(
    ("sql", "parts"),
    [
        ("SELEC 1", ["does not parse", "SELECT"]),
        ("SELECT * FROM read_csv('/etc/passwd')", ["cannot read files"]),
        ("SELECT * FROM '/etc/passwd'", ["/etc/passwd", "samples"]),
        ("DROP TABLE samples", ["DROP", "expected SELECT"]),
        ("SELECT 1; SELECT 2", ["2 statements"]),
        ("SELECT nope FROM samples", ["nope", "question"]),
        ("SELECT question::int FROM samples", ["failed on the data", "conversion"]),
        ("SELECT * FROM nope", ["no table 'nope'", "gradients", "records"]),
    ],
)
def test_queries_that_are_refused(gradstore, world, sql, parts):
    before = world.store.row_counts()
    one_line(gradstore("query", world.store_uri, sql), 1, *parts)
    assert world.store.row_counts() == before


def test_query_formats(gradstore, world, tmp_path):
    sql = "SELECT sample_id, response, vector FROM gradients ORDER BY row_id LIMIT 3"
    rows = json.loads(gradstore("query", world.store_uri, sql, "--json")[1])
    assert len(rows) == 3
    assert len(rows[0]["vector"]) == 512
    lines = gradstore("query", world.store_uri, sql, "--format", "jsonl")[1].splitlines()
    assert [json.loads(line)["sample_id"] for line in lines] == [r["sample_id"] for r in rows]
    assert gradstore("query", world.store_uri, sql, "--format", "csv")[1].startswith("sample_id,response,vector\n")
    assert "sample_id" in gradstore("query", world.store_uri, sql)[1]
    assert gradstore("query", world.store_uri, sql, "--format", "parquet")[0] == 2
    for kind, read in (("parquet", pl.read_parquet), ("arrow", pl.read_ipc)):
        out = tmp_path / f"v.{kind}"
        assert gradstore("query", world.store_uri, sql, "--format", kind, "--out", out)[0] == 0
        frame = read(out)
        assert frame["vector"].dtype == pl.Array(pl.Float16, 512)
        assert frame["vector"][0].to_list() == pytest.approx(rows[0]["vector"])


def test_select_export_and_info_speak_json(gradstore, world, tmp_path):
    uri = world.store_uri
    code, out, err = gradstore("select", uri, "--name", "cli", "--known", "9", "--unknown", "4000", "--json")
    assert code == 0
    assert "4000 unknown samples were asked for" in err
    assert json.loads(out)["keep their answer"] == 9
    one_line(gradstore("select", uri, "--name", "x", "--known", "9", "--unknown", "4000", "--strict"), 1, "--strict")
    one_line(gradstore("select", uri, "--name", "x", "--method", "magic"), 1, "magic", "grait", "cor-rait", "random")
    one_line(
        gradstore("select", uri, "--name", "x", "--known", "5", "--unknown", "5", "--cap", "0.5"),
        1,
        "cap",
        "--weight-total",
    )
    code, out, _ = gradstore("export", uri, "cli", "--to", "trl", "--out", tmp_path / "o", "--json")
    assert code == 0
    assert len(json.loads(out)["written"]) == 4
    one_line(
        gradstore("export", uri, "cli", "--to", "llamafile", "--out", tmp_path / "p"), 1, "llamafile", "trl", "xtuner"
    )
    assert "cli" in json.loads(gradstore("info", uri, "--json")[1])["selections"]


def test_build_runs_all_stages_and_resumes(gradstore, world, model_folder, tmp_path):
    uri = tmp_path / "store"
    arguments = ["build", uri, "--data", model_folder / "train.jsonl", "--preset", "qa", "--model", world.options.model]
    arguments += ["--device", "cpu", "--max-new-tokens", "8", "--epochs", "1", "--lr", "1e-3", "--rehearsal", "20"]
    arguments += ["--dim", "128", "--json"]
    first = gradstore(*arguments)
    assert first[0] == 0, first[2]
    counts = json.loads(first[1])
    assert counts["extract"]["new"] == 2 * counts["ingest"]["new"]
    assert (tmp_path / "store.work" / "warmup" / "epoch-1" / "checkpoint.json").exists()
    again = json.loads(gradstore(*arguments)[1])
    assert again["probe"]["new"] == 0
    assert again["extract"]["new"] == 0
    exposures = GradientStore.open(uri).scan("samples").collect()["exposure"]
    assert set(exposures) == {"often", "rarely", "never"}, "the lab model's exposure was not recorded"
