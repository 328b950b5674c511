"""An export is one folder per target: whole, the same bytes each time, never in another's place."""

import ast
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import gradstore
from gradstore.errors import GradstoreError, InputFileError, SchemaError, SelectionError
from gradstore.export import TARGETS, Example, write_trl, write_xtuner

PROVENANCE = {"selection": {"mode": "intent", "tau": None}, "model": "tiny"}
TRAINER = Path(gradstore.__file__).parent / "models" / "weighted_sft.py"


def plain(i: int, weight: float = 1.0, group: str = "known") -> Example:
    return Example(f"id{i}", group, f"Question {i}\u2028 in two lines?\nAnswer:", f" réponse {i}", weight)


def chat(i: int, weight: float = 1.0) -> Example:
    prompt = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "A demo?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": f"Question {i}?"},
    ]
    return Example(f"id{i}", "unknown", prompt, [{"role": "assistant", "content": "I don't know."}], weight)


def some() -> list[Example]:
    return [plain(i, 1.0 if i < 12 else i / 16, "known" if i < 12 else "unknown") for i in range(20)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def trl_rows(out: Path) -> list[dict]:
    lines = (out / "trl" / "train.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def test_trl_rows_are_read_back_as_they_were_given(tmp_path):
    write_trl(some(), tmp_path, PROVENANCE)
    found = [Example(**row) for row in trl_rows(tmp_path)]
    assert sorted(found, key=lambda e: e.sample_id) == sorted(some(), key=lambda e: e.sample_id)
    assert list(trl_rows(tmp_path)[0]) == ["prompt", "completion", "weight", "sample_id", "group"]


def test_xtuner_rows_hold_the_weight_where_the_fork_reads_it(tmp_path):
    write_xtuner([plain(1, 0.25)], tmp_path, PROVENANCE)
    turn = {
        "system": "",
        "input": "Question 1\u2028 in two lines?\nAnswer:",
        "output": "réponse 1",
        "output_with_loss": True,
    }
    row = {"conversation": [turn], "sample_id": "id1", "group": "known"}
    assert json.loads((tmp_path / "xtuner" / "plain.json").read_text(encoding="utf-8")) == [row]
    turn |= {"alpha": 0.25, "beta": 0.0}
    assert json.loads((tmp_path / "xtuner" / "grait.json").read_text(encoding="utf-8")) == [row]


def test_xtuner_trains_on_the_last_turn_of_a_chat_only(tmp_path):
    write_xtuner([chat(1, 2.0)], tmp_path, PROVENANCE)
    [row] = json.loads((tmp_path / "xtuner" / "grait.json").read_text(encoding="utf-8"))
    demo, asked = row["conversation"]
    assert demo == {
        "system": "Be brief.",
        "input": "A demo?",
        "output": "Yes.",
        "output_with_loss": False,
        "alpha": 2.0,
        "beta": 0.0,
    }
    assert asked == {
        "system": "",
        "input": "Question 1?",
        "output": "I don't know.",
        "output_with_loss": True,
    }


@pytest.mark.parametrize("target", TARGETS)
def test_same_examples_give_the_same_bytes_in_any_order(target, tmp_path):
    first = TARGETS[target](some(), tmp_path / "a", PROVENANCE)
    TARGETS[target](some()[::-1], tmp_path / "b", dict(reversed(PROVENANCE.items())))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert all(text.endswith(b"\n") for text in contents(tmp_path / "a").values())
    assert {str(p.relative_to(tmp_path / "a")) for p in first} == set(contents(tmp_path / "a"))


def test_the_order_mixes_the_groups(tmp_path):
    write_trl(some(), tmp_path, PROVENANCE)
    groups = [row["group"] for row in trl_rows(tmp_path)]
    assert "unknown" in groups[:12], "GRAIT's trainer reads the file in order"


@pytest.mark.parametrize("target", TARGETS)
def test_the_manifest_describes_the_export(target, tmp_path):
    TARGETS[target](some(), tmp_path, PROVENANCE)
    found = json.loads((tmp_path / target / "manifest.json").read_text(encoding="utf-8"))
    files = found.pop("files")
    written = contents(tmp_path / target)
    assert files == {n: hashlib.sha256(t).hexdigest() for n, t in written.items() if n != "manifest.json"}
    weights = [i / 16 for i in range(12, 20)]
    assert found.pop("weights") == {
        "known": {"sum": 12.0, "mean": 1.0, "min": 1.0, "max": 1.0, "effective_sample_size": 12.0},
        "unknown": {
            "sum": 7.75,
            "mean": 7.75 / 8,
            "min": 0.75,
            "max": 1.1875,
            "effective_sample_size": pytest.approx(7.75**2 / sum(w * w for w in weights)),
        },
    }
    assert found == {
        "format": 1,
        "gradstore": gradstore.__version__,
        "target": target,
        "rows": 20,
        "groups": {"known": 12, "unknown": 8},
        "provenance": PROVENANCE,
    }


def test_weights_of_zero_have_an_effective_sample_size_of_zero(tmp_path):
    write_trl([plain(1, 0.0)], tmp_path, {})
    found = json.loads((tmp_path / "trl" / "manifest.json").read_text(encoding="utf-8"))
    assert found["weights"] == {
        "known": {"sum": 0.0, "mean": 0.0, "min": 0.0, "max": 0.0, "effective_sample_size": 0.0}
    }


def test_a_second_target_leaves_the_first_as_it_was(tmp_path):
    write_trl(some(), tmp_path, PROVENANCE)
    before = contents(tmp_path / "trl")
    write_xtuner(some(), tmp_path, PROVENANCE)
    assert contents(tmp_path / "trl") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["trl", "xtuner"], "no temporary folder stays"


def test_an_earlier_export_is_replaced_whole(tmp_path):
    write_trl(some(), tmp_path, PROVENANCE)
    (tmp_path / "trl" / "__pycache__").mkdir()
    write_trl([plain(1)], tmp_path, PROVENANCE)
    assert len(trl_rows(tmp_path)) == 1
    assert not (tmp_path / "trl" / "__pycache__").exists()


@pytest.mark.parametrize("target", TARGETS)
def test_a_foreign_folder_is_refused_and_left_as_it_was(target, tmp_path):
    (tmp_path / target).mkdir()
    (tmp_path / target / "manifest.json").write_text('{"name": "of something else"}')
    before = contents(tmp_path)
    with pytest.raises(InputFileError, match=r"holds what no export .*manifest\.json.* pass another folder"):
        TARGETS[target](some(), tmp_path, PROVENANCE)
    assert contents(tmp_path) == before


def test_an_adapter_trained_inside_an_export_is_not_destroyed(tmp_path):
    write_trl(some(), tmp_path, PROVENANCE)
    (tmp_path / "trl" / "adapter").mkdir()
    before = contents(tmp_path)
    with pytest.raises(InputFileError, match=r"\(adapter\)"):
        write_trl([plain(1)], tmp_path, PROVENANCE)
    assert contents(tmp_path) == before


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputFileError, match="out is a file, expected a folder"):
        write_trl(some(), tmp_path / "out", PROVENANCE)


@pytest.mark.parametrize(
    ("examples", "error", "message"),
    [
        ([], SelectionError, "no examples to export"),
        ([plain(1), plain(2, float("nan"))], SelectionError, "1 of 2 weights .* first nan of sample id2"),
        ([plain(1, -1.0)], SelectionError, "1 of 1 weights .* first -1.0 of sample id1"),
        ([plain(1, group="ik")], SelectionError, r"Groups \['ik'\] .* expected \['known', 'unknown'\]"),
        ([plain(1), chat(2)], SchemaError, "1 of 2 prompts are chat messages"),
        ([Example("a", "known", "text", [], 1.0)], SchemaError, "0 of 1 prompts are chat messages"),
    ],
)
@pytest.mark.parametrize("target", TARGETS)
def test_examples_that_cannot_be_trained_on_are_refused(target, examples, error, message, tmp_path):
    with pytest.raises(error, match=message):
        TARGETS[target](examples, tmp_path / "out", PROVENANCE)
    assert not (tmp_path / "out").exists()


def test_messages_that_xtuner_cannot_read_are_refused(tmp_path):
    twice = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    example = Example("id7", "known", twice, [{"role": "assistant", "content": "c"}], 1.0)
    with pytest.raises(SchemaError, match=r"sample id7 have the roles .* export to trl"):
        write_xtuner([example], tmp_path, PROVENANCE)


def test_a_failed_write_leaves_the_earlier_export(tmp_path, monkeypatch):
    write_trl(some(), tmp_path, PROVENANCE)
    before = contents(tmp_path)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space left"):
        write_trl([plain(1)], tmp_path, PROVENANCE)
    monkeypatch.undo()
    assert contents(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["trl"]


def test_the_trainer_beside_the_data_is_the_module_and_needs_no_gradstore(tmp_path):
    write_trl(some(), tmp_path, PROVENANCE)
    text = (tmp_path / "trl" / "weighted_sft.py").read_bytes()
    assert text == TRAINER.read_bytes()
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "an import beside the file would not be there"
            names.add(node.module.split(".")[0])
    assert names - sys.stdlib_module_names == {"torch", "trl", "datasets", "peft"}


def test_importing_the_writers_imports_no_torch():
    code = "import sys, gradstore.export; print(*{'torch', 'trl', 'transformers', 'lancedb'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_refusal_is_one_line_of_ours(tmp_path):
    with pytest.raises(GradstoreError) as caught:
        write_trl([], tmp_path, {})
    assert "\n" not in str(caught.value)
