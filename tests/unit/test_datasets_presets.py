"""Each preset reads each shape its data set comes in, and values stay what they were in the file."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gradstore import schemas
from gradstore.datasets import PRESETS, ROLES, read_files
from gradstore.identity import sample_id

FIXTURES = Path(__file__).parents[1] / "fixtures"


def rows(name, preset, **options):
    read = read_files([FIXTURES / name], preset=preset, **options)
    assert read.rejects.num_rows == 0, read.rejects.to_pylist()
    return read.samples.to_pylist()


def ask(tmp_path, preset, *records):
    path = tmp_path / "asked.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return read_files([path], preset=preset)


def gold(row):
    return row["choices"]["ABCDE".index(row["answer"])]


def test_the_presets_and_roles_are_the_documented_ones():
    assert list(PRESETS) == ["mmlu", "arc", "nq", "triviaqa", "qa"]
    assert ROLES == ("train", "demo", "test")


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("pond", "mmlu"),
        ("mmlu_listed.jsonl", "mmlu"),
        ("arc_ai2.jsonl", "arc"),
        ("arc_hf.jsonl", "arc"),
        ("nq.json", "nq"),
        ("nq_open.jsonl", "nq"),
        ("nq.json", "triviaqa"),
        ("nq_open.jsonl", "triviaqa"),
        ("trivia_ai2.json", "triviaqa"),
        ("trivia_hf.jsonl", "triviaqa"),
        ("qa.csv", "qa"),
    ],
)
def test_every_shape_fills_the_samples_table(name, preset):
    read = read_files([FIXTURES / name], preset=preset, role="demo")
    assert read.samples.schema.equals(schemas.TABLES["samples"].schema, check_metadata=True)
    assert read.rejects.schema.equals(schemas.TABLES["rejects"].schema, check_metadata=True)
    read.samples.validate(full=True)
    found = read.samples.to_pylist()
    assert read.read == len(found) > 0
    assert [row["ordinal"] for row in found] == list(range(len(found)))
    assert {row["role"] for row in found} == {"demo"}
    assert {row["source"] for row in found} == {preset}
    for row in found:
        assert row["sample_id"] == sample_id(row["task"], row["question"], row["choices"])
        assert (row["task"] == "mcqa") == (row["choices"] is not None) == (row["aliases"] is None)
        assert row["aliases"] is None or row["aliases"][0] == row["answer"]


def test_mmlu_rows_take_subject_and_split_from_the_file_name():
    found = rows("pond", "mmlu")
    assert [(r["subject"], r["split"], r["answer"]) for r in found] == [
        ("old ponds", "dev", "B"),
        ("old ponds", "dev", "A"),
        ("pond life", "test", "A"),
        ("pond life", "test", "B"),
        ("pond life", "test", "A"),
    ]


def test_mmlu_options_that_look_like_missing_values_stay_text():
    found = rows("pond/pond_life_test.csv", "mmlu")
    assert found[1]["choices"] == ["4", "6", "8", "None"]
    assert found[2]["choices"] == ["NA", "nan", "1", "None"]


def test_headerless_mmlu_keeps_its_first_row_and_quoted_line_breaks():
    found = rows("pond/old_ponds_dev.csv", "mmlu")
    assert found[0]["question"] == "What do ducks float on?"
    assert found[1]["question"] == "A pond that is dry,\nwhat does it hold?"


def test_the_header_of_the_headerless_columns_is_a_header(tmp_path):
    path = tmp_path / "odd_val.csv"
    path.write_text("question,A,B,C,D,answer\nWhat?,a,b,c,d,D\n")
    read = read_files([path], preset="mmlu")
    assert read.read == 1
    assert [(r["question"], r["answer"], r["split"]) for r in read.samples.to_pylist()] == [("What?", "D", "val")]


def test_listed_mmlu_counts_answers_from_zero_and_names_its_subject():
    found = rows("mmlu_listed.jsonl", "mmlu")
    assert [(gold(r), r["subject"], r["split"]) for r in found] == [
        ("green", "pond plants", "mmlu_listed"),
        ("a leaf", "pond plants", "mmlu_listed"),
    ]


def test_listed_mmlu_reads_the_same_from_parquet(tmp_path):
    lines = (FIXTURES / "mmlu_listed.jsonl").read_text().splitlines()
    pq.write_table(pa.Table.from_pylist([json.loads(line) for line in lines]), tmp_path / "mmlu_listed.parquet")
    read = read_files([tmp_path / "mmlu_listed.parquet"], preset="mmlu")
    assert read.samples.to_pylist() == rows("mmlu_listed.jsonl", "mmlu")


@pytest.mark.parametrize("name", ["arc_ai2.jsonl", "arc_hf.jsonl"])
def test_arc_letters_options_by_position_whatever_their_labels(name):
    found = rows(name, "arc")
    assert [(len(r["choices"]), r["answer"], gold(r)) for r in found] == [
        (3, "A", "heat"),
        (4, "C", "water"),
        (5, "E", "a decade"),
    ]
    assert {r["subject"] for r in found} == {None}


def test_both_arc_shapes_are_the_same_samples():
    ids = [[r["sample_id"] for r in rows(name, "arc")] for name in ("arc_ai2.jsonl", "arc_hf.jsonl")]
    assert ids[0] == ids[1]


def test_nq_answers_are_text_with_the_gold_first():
    found = rows("nq.json", "nq")
    assert [(r["answer"], r["aliases"]) for r in found] == [
        ("Ada Reed", ["Ada Reed", "A. Reed"]),
        ("3", ["3", "three"]),
        ("None", ["None", "NA"]),
        ("true", ["true"]),
    ]


def test_nq_open_numbers_stay_as_written():
    assert [r["aliases"] for r in rows("nq_open.jsonl", "nq")] == [["Ada Reed", "A. Reed"], ["3.10"]]


@pytest.mark.parametrize("name", ["trivia_ai2.json", "trivia_hf.jsonl"])
def test_trivia_aliases_are_value_then_aliases_then_normalised(name):
    assert [r["aliases"] for r in rows(name, "triviaqa")] == [
        ["Woodpecker", "The woodpecker", "woodpecker", "the woodpecker"],
        ["Penguin", "Penguins", "penguins", "penguin"],
    ]


def test_qa_csv_reads_everything_as_text():
    found = rows("qa.csv", "qa")
    assert [(r["task"], r["answer"], r["aliases"], r["subject"]) for r in found] == [
        ("oeqa", "NA", ["NA"], "old boxes"),
        ("oeqa", "None", ["None", "nobody", "no one"], None),
        ("mcqa", "C", None, "numbers"),
        ("oeqa", "1", ["1", "one"], None),
    ]


@pytest.mark.parametrize(
    ("choices", "answer", "letter"),
    [
        (["red", "blue"], "blue", "B"),
        (["red", "blue"], "B", "B"),
        (["red", "blue"], "b", "B"),
        (["red", "blue"], 1, "B"),
        (["red", "blue"], "1", "B"),
        (["B", "A"], "A", "B"),  # the text of one option comes before the letter
        (["0", "2", "4"], "2", "B"),  # text beside text: the option
        (["0", "2", "4"], 2, "C"),  # a number beside text: an index
        ([0, 2, 4], 2, "B"),  # a number beside numbers: the option
        ([0.5, 1.5], 1.5, "B"),
        (["no", "yes"], " yes ", "B"),
    ],
)
def test_qa_answers_are_option_text_then_letter_then_index(tmp_path, choices, answer, letter):
    read = ask(tmp_path, "qa", {"question": "Which?", "choices": choices, "answer": answer})
    assert [r["answer"] for r in read.samples.to_pylist()] == [letter]


def test_qa_field_mapping_reads_any_columns(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("frage,antwort,question\nWas?,nichts,ignored\n", encoding="utf-8")
    read = read_files([path], preset="qa", fields={"question": "frage", "answer": "antwort"})
    assert [(r["question"], r["answer"]) for r in read.samples.to_pylist()] == [("Was?", "nichts")]


def test_qa_fields_may_swap(tmp_path):
    path = tmp_path / "swapped.csv"
    path.write_text("question,answer\nnothing,What?\n")
    read = read_files([path], preset="qa", fields={"question": "answer", "answer": "question"})
    assert [(r["question"], r["answer"]) for r in read.samples.to_pylist()] == [("What?", "nothing")]


def test_questions_are_stripped_and_composed_but_not_otherwise_changed(tmp_path):
    read = ask(tmp_path, "qa", {"question": "  Cafe\u0301:  x²? ", "answer": " e\u0301 "})
    assert [(r["question"], r["answer"]) for r in read.samples.to_pylist()] == [("Café:  x²?", "é")]


@pytest.mark.parametrize(
    ("preset", "record", "reason"),
    [
        ("qa", {"question": " ", "answer": "x"}, "empty-question"),
        ("qa", {"question": None, "answer": "x"}, "empty-question"),
        ("qa", {"question": "Q?", "answer": ""}, "empty-answer"),
        ("qa", {"question": "Q?", "answer": None}, "empty-answer"),
        ("nq", {"question": "Q?", "answer": []}, "empty-answer"),
        ("nq", {"question": "Q?", "answer": [{"text": "x"}]}, "missing-field"),
        ("triviaqa", {"Question": "Q?", "Answer": {}}, "empty-answer"),
        ("qa", {"question": "Q?", "answer": "x", "choices": ["a", "b"]}, "gold-not-an-option"),
        ("qa", {"question": "Q?", "answer": 2, "choices": ["a", "b"]}, "gold-not-an-option"),
        ("qa", {"question": "Q?", "answer": -1, "choices": ["a", "b"]}, "gold-not-an-option"),
        ("qa", {"question": "Q?", "answer": "C", "choices": ["a", "b"]}, "gold-not-an-option"),
        ("qa", {"question": "Q?", "answer": "A", "choices": ["a"]}, "bad-choices"),
        ("qa", {"question": "Q?", "answer": "A", "choices": []}, "bad-choices"),
        ("qa", {"question": "Q?", "answer": "A", "choices": [str(i) for i in range(27)]}, "bad-choices"),
        ("qa", {"question": "Q?", "answer": "A", "choices": ["a", " "]}, "bad-choices"),
        ("qa", {"question": "Q?", "answer": "A", "choices": ["a", None]}, "bad-choices"),
        ("qa", {"question": "Q?", "answer": "A", "choices": ["a", " a"]}, "bad-choices"),
        ("qa", {"question": "Q?", "answer": "A", "choices": ["a", {"text": "b"}]}, "bad-choices"),
        ("qa", {"question": "Q?", "answer": "A", "choices": "a or b"}, "bad-choices"),
        ("qa", {"question": "Q?"}, "missing-field"),
        ("qa", {"question": ["Q?"], "answer": "x"}, "missing-field"),
        ("mmlu", {"question": "Q?", "choices": ["a", "b"], "answer": "E"}, "gold-not-an-option"),
        (
            "arc",
            {"question": "Q?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "1"},
            "gold-not-an-option",
        ),
        (
            "arc",
            {"question": "Q?", "choices": {"text": ["a", "b"], "label": ["A"]}, "answerKey": "A"},
            "bad-choices",
        ),
        (
            "arc",
            {"question": "Q?", "choices": {"text": ["a", "b"], "label": ["A", "A"]}, "answerKey": "A"},
            "bad-choices",
        ),
    ],
)
def test_a_record_that_cannot_be_used_is_a_reject_with_its_reason(tmp_path, preset, record, reason):
    good = {
        "qa": {"question": "Fine?", "answer": "yes"},
        "nq": {"question": "Fine?", "answer": "yes"},
        "triviaqa": {"question": "Fine?", "answer": "yes"},
        "mmlu": {"question": "Fine?", "choices": ["yes", "no"], "answer": 0},
        "arc": {"question": "Fine?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"},
    }[preset]
    read = ask(tmp_path, preset, good, record)
    assert read.samples["question"].to_pylist() == ["Fine?"]
    (reject,) = read.rejects.to_pylist()
    assert (reject["reason"], reject["line"], reject["stage"]) == (reason, 2, "ingest")
    assert json.loads(reject["raw"]) == record
    assert reject["detail"]
