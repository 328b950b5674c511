"""What is wrong with one record costs that record; what is wrong with a file is one line that says so."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gradstore.datasets import read_files
from gradstore.errors import InputFileError

GOOD = b'{"question": "Q%d?", "answer": "x"}'


def write(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def refusal(path, preset="qa", **options):
    """The message of the error, which must be one line that names the file."""
    with pytest.raises(InputFileError) as caught:
        read_files([path], preset=preset, **options)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def rejected(read):
    return [(row["line"], row["reason"]) for row in read.rejects.to_pylist()]


def test_a_bad_line_of_jsonl_costs_that_line(tmp_path):
    bad_byte = b'{"question": "caf\xe9?", "answer": "x"}'
    lines = [GOOD % 1, bad_byte, b"", b'{"question": "cut', b"[1]", GOOD % 6, b'{"answer": "x"}']
    path = write(tmp_path, "q.jsonl", b"\n".join(lines))
    read = read_files([path], preset="qa")
    assert read.samples["question"].to_pylist() == ["Q1?", "Q6?"]
    assert rejected(read) == [
        (2, "undecodable"),
        (4, "undecodable"),
        (5, "undecodable"),
        (7, "missing-field"),
    ]
    assert set(read.rejects["file"].to_pylist()) == {str(path)}
    assert read.rejects["raw"].to_pylist()[0] == '{"question": "caf\ufffd?", "answer": "x"}'
    assert read.read == 6


def test_half_a_unicode_pair_is_undecodable(tmp_path):
    data = b"\n".join([GOOD % 1, rb'{"question": "\ud800?", "answer": "x"}'])
    assert rejected(read_files([write(tmp_path, "q.jsonl", data)], preset="qa")) == [(2, "undecodable")]
    array = b"[" + data.replace(b"\n", b",") + b"]"
    assert rejected(read_files([write(tmp_path, "q.json", array)], preset="qa")) == [(2, "undecodable")]
    cells = b'question,answer,choices\nQ1?,x,\nQ2?,A,"[""\\ud800"", ""b""]"\n'
    assert rejected(read_files([write(tmp_path, "q.csv", cells)], preset="qa")) == [(3, "bad-choices")]


def test_a_line_separator_inside_a_string_ends_no_line(tmp_path):
    path = write(tmp_path, "q.jsonl", '{"question": "a\u2028b\x85c?", "answer": "x"}\n'.encode())
    assert read_files([path], preset="qa").samples["question"].to_pylist() == ["a\u2028b\x85c?"]


def test_bom_and_crlf_are_not_part_of_the_text(tmp_path):
    jsonl = write(tmp_path, "q.jsonl", b"\xef\xbb\xbf" + GOOD % 1 + b"\r\n" + GOOD % 2 + b"\r\n")
    csv = write(tmp_path, "q.csv", b"\xef\xbb\xbfquestion,answer\r\nQ1?,x\r\nQ2?,x\r\n")
    array = write(tmp_path, "q.json", b"\xef\xbb\xbf[" + GOOD % 1 + b",\r\n" + GOOD % 2 + b"]")
    for path in (jsonl, csv, array):
        read = read_files([path], preset="qa")
        assert read.samples["question"].to_pylist() == ["Q1?", "Q2?"]
        assert read.samples["answer"].to_pylist() == ["x", "x"]
        assert read.rejects.num_rows == 0


def test_nul_bytes_break_nothing(tmp_path):
    csv = write(tmp_path, "q.csv", b"question,answer\nQ\x001?,x\nQ2?,x\n")
    assert read_files([csv], preset="qa").samples["question"].to_pylist() == ["Q\x001?", "Q2?"]
    jsonl = write(tmp_path, "q.jsonl", GOOD % 1 + b"\n\x00\n" + GOOD % 3)
    assert rejected(read_files([jsonl], preset="qa")) == [(2, "undecodable")]


def test_csv_lines_are_counted_where_the_record_starts(tmp_path):
    data = b'question,answer\n"Q\none?",x\n\nQ2?,x,extra\nQ3?\n"Q4?", \n'
    read = read_files([write(tmp_path, "q.csv", data)], preset="qa")
    assert read.samples["question"].to_pylist() == ["Q\none?"]
    assert rejected(read) == [(5, "undecodable"), (6, "undecodable"), (7, "empty-answer")]
    assert read.rejects["raw"].to_pylist() == ["Q2?,x,extra", "Q3?", '"Q4?", ']


def test_a_bad_byte_in_csv_costs_its_row(tmp_path):
    path = write(tmp_path, "q.csv", b'question,answer\nQ1?,x\n"caf\xe9\n?",x\nQ2?,x\n')
    read = read_files([path], preset="qa")
    assert read.samples["question"].to_pylist() == ["Q1?", "Q2?"]
    assert rejected(read) == [(3, "undecodable")]


def test_a_quote_left_open_does_not_swallow_the_file(tmp_path):
    data = b'question,answer\nQ1?,x\n"Q2?,x\nQ3?,x\n"Q4, too?",x\nQ5?,x\n"Q6?,x\nQ7?,x\n'
    read = read_files([write(tmp_path, "q.csv", data)], preset="qa")
    assert read.samples["question"].to_pylist() == ["Q1?", "Q3?", "Q4, too?", "Q5?", "Q7?"]
    assert rejected(read) == [(3, "undecodable"), (7, "undecodable")]


def test_a_broken_first_row_does_not_turn_headerless_rows_into_a_header(tmp_path):
    path = write(tmp_path, "ponds_test.csv", b'"What?,a,b,c,d,A\nWhy?,a,b,c,d,B\n')
    read = read_files([path], preset="mmlu")
    assert read.samples["question"].to_pylist() == ["Why?"]
    assert rejected(read) == [(1, "undecodable")]


def test_records_of_arrays_and_parquet_are_counted_from_one(tmp_path):
    records = [{"question": "Q1?", "answer": "x"}, {"question": "", "answer": "x"}]
    array = write(tmp_path, "q.json", json.dumps([*records, "text"]).encode())
    assert rejected(read_files([array], preset="qa")) == [(2, "empty-question"), (3, "undecodable")]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "q.parquet")
    assert rejected(read_files([tmp_path / "q.parquet"], preset="qa")) == [(2, "empty-question")]


def test_json_lines_may_be_named_json(tmp_path):
    path = write(tmp_path, "q.json", b"\n".join([GOOD % 1, b'{"question": ', GOOD % 3]))
    read = read_files([path], preset="qa")
    assert read.samples["question"].to_pylist() == ["Q1?", "Q3?"]
    assert rejected(read) == [(2, "undecodable")]


def test_what_was_read_is_shown_up_to_2000_characters(tmp_path):
    long = b'{"question": "", "answer": "' + b"x" * 5000 + b'"}'
    (reject,) = read_files([write(tmp_path, "q.jsonl", GOOD % 1 + b"\n" + long)], preset="qa").rejects.to_pylist()
    assert reject["raw"] == long.decode()[:2000]


def test_files_of_a_folder_are_read_by_name_and_named_with_it(tmp_path):
    for name in ("b.jsonl", "a.jsonl"):
        write(tmp_path, name, GOOD % ord(name[0]) + b'\n{"question": "", "answer": "x"}')
    write(tmp_path, "notes.txt", b"not a question")
    read = read_files([str(tmp_path)], preset="qa")
    assert read.samples["question"].to_pylist() == ["Q97?", "Q98?"]
    assert read.rejects["file"].to_pylist() == [f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl"]


@pytest.mark.parametrize("name", ["gone.csv", "./gone", "/no/where", "a/b/c"])
def test_a_missing_file_says_what_was_expected(name):
    message = refusal(name)
    assert message.startswith("no such file: ")
    assert "expected" in message


@pytest.mark.parametrize("name", ["q.csv", "q.json", "q.jsonl", "folder"])
def test_nothing_to_read_is_an_error(tmp_path, name):
    if name == "folder":
        (tmp_path / name).mkdir()
        assert "it holds nothing" in refusal(tmp_path / name)
    else:
        assert "is empty" in refusal(write(tmp_path, name, b""))


def test_a_header_alone_is_empty(tmp_path):
    assert "is empty" in refusal(write(tmp_path, "q.csv", b"question,answer\n\n"))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (gzip.compress(GOOD), "gzip"),
        (b"PAR1" + bytes(40), "Parquet"),
        (bytes(range(128, 256)) * 4, "binary"),
        ((GOOD % 1).decode().encode("utf-16-le"), "another encoding"),
    ],
)
def test_a_binary_file_is_not_text(tmp_path, data, found):
    for name in ("q.jsonl", "q.json", "q.csv"):
        message = refusal(write(tmp_path, name, data))
        assert found in message
        assert "UTF-8 text was expected" in message


def test_a_text_is_not_parquet(tmp_path):
    assert "cannot be read as Parquet" in refusal(write(tmp_path, "q.parquet", GOOD))


def test_a_suffix_that_nothing_reads_lists_those_that_are(tmp_path):
    assert ".csv, .json, .jsonl" in refusal(write(tmp_path, "q.txt", GOOD))


def test_json_that_does_not_parse_as_a_whole_is_an_error(tmp_path):
    assert "is not JSON" in refusal(write(tmp_path, "q.json", b"[" + GOOD + b","))
    assert "is not JSON" in refusal(write(tmp_path, "q.json", b'{"Data": [' + GOOD))


def test_a_file_of_another_shape_names_what_it_holds_and_the_preset_that_fits(tmp_path):
    path = write(tmp_path, "q.jsonl", GOOD)
    message = refusal(path, preset="arc")
    assert "found {question: str, answer: str}" in message
    assert "expected {question: {stem, choices: [{text, label}]}, answerKey}" in message
    assert "use --preset nq or triviaqa or qa" in message


def test_a_file_that_no_preset_reads_points_to_the_field_mapping(tmp_path):
    path = write(tmp_path, "q.csv", b"frage,antwort\nWas?,nichts\n")
    for preset in ("mmlu", "arc", "nq", "triviaqa", "qa"):
        assert "use --preset qa with --field question=<column>" in refusal(path, preset=preset)


def test_a_six_column_file_without_letters_is_not_headerless_mmlu(tmp_path):
    path = write(tmp_path, "people.csv", b"name,age,town,x,y,z\nAda,3,Reed,1,2,3\n")
    assert "found {name: str, age: str" in refusal(path, preset="mmlu")


def test_lines_that_are_all_bad_are_an_error_not_a_pile_of_rejects(tmp_path):
    assert "found not JSON" in refusal(write(tmp_path, "q.jsonl", b"question;answer\nQ?;x\n"))


def test_a_column_named_twice_is_an_error(tmp_path):
    path = write(tmp_path, "q.csv", b"question,answer,answer,,\nQ?,x,y,,\n")
    assert "columns named twice: answer" in refusal(path)


def test_a_mapped_column_that_is_not_there_lists_those_that_are(tmp_path):
    path = write(tmp_path, "q.csv", b"frage,antwort\nWas?,nichts\n")
    message = refusal(path, fields={"question": "frage", "answer": "antword"})
    assert "no column antword; the columns there are: frage, antwort" in message


@pytest.mark.parametrize(
    ("options", "listed"),
    [
        ({"preset": "mlu"}, "mmlu, arc, nq, triviaqa, qa"),
        ({"preset": "qa", "role": "dev"}, "train, demo, test"),
        ({"preset": "qa", "fields": {"frage": "q"}}, "question, answer, aliases, choices, id, subject"),
        ({"preset": "nq", "fields": {"question": "q"}}, "--preset qa with --field"),
        ({"preset": "qa", "limit": -1}, "0 or more"),
    ],
)
def test_an_unknown_setting_lists_what_there_is(tmp_path, options, listed):
    path = write(tmp_path, "q.jsonl", GOOD)
    with pytest.raises(InputFileError, match=listed):
        read_files([path], **options)


@pytest.mark.parametrize("paths", [[], [""]])
def test_no_path_is_an_error(paths):
    with pytest.raises(InputFileError, match="no files were named"):
        read_files(paths, preset="qa")
