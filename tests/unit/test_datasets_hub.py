"""Hugging Face data sets: saved folders and hub ids go through the same parsers. No hub is reached."""

import json
import sys
from pathlib import Path

import pytest

from gradstore.datasets import read_files
from gradstore.datasets.hub import may_be_hub_id
from gradstore.errors import InputFileError, MissingExtra

FIXTURES = Path(__file__).parents[1] / "fixtures"
MMLU = {
    "question": ["Which colour is moss?", "Which of these floats?", ""],
    "subject": ["pond_plants"] * 3,
    "choices": [
        ["green", "red", "blue", "white"],
        ["a stone", "a nail", "a leaf", "a coin"],
        ["a", "b", "c", "d"],
    ],
    "answer": [0, 2, 1],
}


@pytest.fixture
def library():
    return pytest.importorskip("datasets", reason="the extra hf is not installed")


def test_a_saved_mmlu_reads_as_its_files_do(tmp_path, library):
    features = library.Features(
        question=library.Value("string"),
        subject=library.Value("string"),
        choices=library.Sequence(library.Value("string")),
        answer=library.ClassLabel(names=["A", "B", "C", "D"]),
    )
    library.Dataset.from_dict(MMLU, features=features).save_to_disk(str(tmp_path / "saved"))
    read = read_files([tmp_path / "saved"], preset="mmlu", split="test")
    filed = read_files([FIXTURES / "mmlu_listed.jsonl"], preset="mmlu", split="test")
    assert read.samples.equals(filed.samples)
    (reject,) = read.rejects.to_pylist()
    assert (reject["file"], reject["line"], reject["reason"]) == (
        str(tmp_path / "saved"),
        3,
        "empty-question",
    )


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("arc_hf.jsonl", "arc"),
        ("nq_open.jsonl", "nq"),
        ("trivia_hf.jsonl", "triviaqa"),
    ],
)
def test_saved_rows_are_the_samples_of_the_file(tmp_path, library, name, preset):
    records = [json.loads(line, parse_float=str) for line in (FIXTURES / name).read_text().splitlines()]
    library.Dataset.from_list(records).save_to_disk(str(tmp_path / "saved"))
    filed = read_files([FIXTURES / name], preset=preset, split="x")
    assert read_files([tmp_path / "saved"], preset=preset, split="x").samples.equals(filed.samples)


def test_a_saved_dictionary_needs_a_split_and_lists_those_there_are(tmp_path, library):
    splits = {s: library.Dataset.from_dict({"question": [f"{s}?"], "answer": [["x"]]}) for s in ("train", "validation")}
    library.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    for split in (None, "test"):
        with pytest.raises(InputFileError, match="train, validation"):
            read_files([tmp_path / "saved"], preset="nq", split=split)
    (row,) = read_files([tmp_path / "saved"], preset="nq", split="validation").samples.to_pylist()
    assert (row["question"], row["split"], row["source"]) == ("validation?", "validation", "nq")


def test_a_saved_split_is_not_taken_for_another(tmp_path, library):
    rows = library.Dataset.from_dict({"question": ["Q?"], "answer": [["x"]]}, split="train")
    rows.save_to_disk(str(tmp_path / "saved"))
    assert read_files([tmp_path / "saved"], preset="nq").samples["split"].to_pylist() == ["train"]
    with pytest.raises(InputFileError, match="no split 'test'; the splits are train"):
        read_files([tmp_path / "saved"], preset="nq", split="test")


def test_a_saved_folder_that_is_broken_is_an_error(tmp_path, library):
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(InputFileError, match="not loaded as a Hugging Face data set"):
        read_files([tmp_path], preset="nq")


def test_a_hub_id_is_loaded_and_becomes_the_source(library, monkeypatch):
    asked = []

    def load_dataset(name, configuration, split):
        asked.append((name, configuration, split))
        return library.Dataset.from_dict({"question": ["Q?"], "answer": [["x"]]})

    monkeypatch.setattr(library, "load_dataset", load_dataset)
    rows = read_files(["pond/questions", "pond/more:deep"], preset="nq", split="validation").samples.to_pylist()
    assert asked == [("pond/questions", None, "validation"), ("pond/more", "deep", "validation")]
    assert [(r["source"], r["split"]) for r in rows] == [("pond/questions", "validation")]


def test_a_hub_that_cannot_be_reached_is_one_line(library, monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("no network\nand more")

    monkeypatch.setattr(library, "load_dataset", load_dataset)
    with pytest.raises(InputFileError, match=r"^pond/questions: .*\(no network\); pass a file[^\n]*$"):
        read_files(["pond/questions"], preset="nq", split="validation")


def test_without_the_library_the_install_line_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'gradstore\[hf\]'"):
        read_files(["pond/questions"], preset="nq")


def test_files_are_read_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert read_files([FIXTURES / "nq.json"], preset="nq").samples.num_rows == 4


@pytest.mark.parametrize(
    ("name", "possible"),
    [
        ("owner/name", True),
        ("name", True),
        ("owner/name-v1.0", True),
        ("owner/name:configuration", True),
        ("a/b/c", False),
        ("./name", False),
        ("../name", False),
        ("/name", False),
        ("~/name", False),
        ("owner/name.csv", False),
        ("name.parquet", False),
        ("owner/na me", False),
        ("", False),
    ],
)
def test_hub_ids_are_told_from_paths(name, possible):
    assert may_be_hub_id(name) is possible
