"""Duplicates, conflicts, limits: each question once, the same rows for the same files."""

import itertools
import json

from gradstore.datasets import read_files
from gradstore.identity import sample_id


def write(tmp_path, records, name="q.jsonl"):
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return path


def qa(question, answer, *aliases, **more):
    return {"question": question, "answer": answer, "aliases": list(aliases), **more}


def questions(read):
    return read.samples["question"].to_pylist()


def test_a_question_asked_twice_with_one_answer_is_kept_once_as_first_read(tmp_path):
    path = write(
        tmp_path,
        [qa("Q  one?", "Reed", "Ada"), qa("Q?", "x"), qa("Q one?", "reed"), qa("Q one?", "Ada", "REED")],
    )
    read = read_files([path], preset="qa")
    assert questions(read) == ["Q  one?", "Q?"]
    assert read.samples["aliases"].to_pylist()[0] == ["Reed", "Ada"]
    assert (read.read, read.duplicates, read.rejects.num_rows) == (4, 2, 0)


def test_duplicates_are_found_across_files(tmp_path):
    paths = [write(tmp_path, [qa("Q?", "x"), qa(f"{name}?", "x")], f"{name}.jsonl") for name in "ab"]
    read = read_files(paths, preset="qa")
    assert questions(read) == ["Q?", "a?", "b?"]
    assert read.samples["split"].to_pylist() == ["a", "a", "b"]
    assert read.samples["ordinal"].to_pylist() == [0, 1, 2]
    assert read.duplicates == 1


def test_a_file_named_twice_is_read_once(tmp_path):
    path = write(tmp_path, [qa("Q?", "x"), qa("", "x")])
    read = read_files([path, str(path), path], preset="qa")
    assert (read.read, read.duplicates, read.rejects.num_rows) == (2, 0, 1)


def test_conflicting_answers_keep_no_record_of_the_question(tmp_path):
    path = write(tmp_path, [qa("Q?", "Reed"), qa("R?", "x"), qa("Q?", "Marsh"), qa("Q?", "Reed")])
    read = read_files([path], preset="qa")
    assert questions(read) == ["R?"]
    rejects = read.rejects.to_pylist()
    assert [row["line"] for row in rejects] == [1, 3, 4]
    assert {row["reason"] for row in rejects} == {"conflicting-answers"}
    assert {row["detail"] for row in rejects} == {"answers: 'Reed', 'Marsh'"}
    assert {row["sample_id"] for row in rejects} == {sample_id("oeqa", "Q?", None)}
    assert len({row["reject_id"] for row in rejects}) == 3
    assert read.duplicates == 0


def test_lettered_questions_conflict_when_the_letters_differ(tmp_path):
    two = {"choices": ["a", "b"]}
    path = write(tmp_path, [qa("Q?", "A", **two), qa("Q?", "B", **two), qa("R?", "A", **two), qa("R?", "a", **two)])
    read = read_files([path], preset="qa")
    assert questions(read) == ["R?"]
    assert [row["reason"] for row in read.rejects.to_pylist()] == ["conflicting-answers"] * 2
    assert read.duplicates == 1


def test_options_in_another_order_are_another_question(tmp_path):
    path = write(tmp_path, [qa("Q?", "A", choices=["a", "b"]), qa("Q?", "A", choices=["b", "a"])])
    assert read_files([path], preset="qa").samples.num_rows == 2


def test_conflicts_do_not_depend_on_the_order_of_records(tmp_path):
    # The second is compatible with both others, which exclude each other.
    records = [qa("Q?", "X", "Y"), qa("Q?", "Y"), qa("Q?", "Z", "Y")]
    for order in itertools.permutations(records):
        read = read_files([write(tmp_path, [*order, qa("R?", "x")])], preset="qa")
        assert questions(read) == ["R?"], f"kept a conflicting question in the order {order}"


def test_limits_are_prefixes_whatever_stands_further_down(tmp_path):
    records = [
        qa("A?", "x"),
        qa("", "x"),
        qa("B?", "x"),
        qa("A?", "x"),
        qa("C?", "x"),
        qa("B?", "y"),
        qa("D?", "x"),
    ]
    path = write(tmp_path, records)
    whole = read_files([path], preset="qa")
    assert questions(whole) == ["A?", "C?", "D?"], "B? is answered in two ways, the second further down"
    assert whole.read == whole.samples.num_rows + whole.duplicates + whole.rejects.num_rows == 7
    for limit in range(5):
        read = read_files([path], preset="qa", limit=limit)
        assert read.samples.equals(whole.samples.slice(0, limit))
        assert read.rejects.equals(whole.rejects)
        assert (read.read, read.duplicates) == (whole.read, whole.duplicates)


def test_the_same_files_give_the_same_tables(tmp_path):
    path = write(tmp_path, [qa("A?", "x", "z", "y"), qa("", "x"), qa("B?", "x"), qa("B?", "y")])
    first, second = (read_files([path], preset="qa") for _ in range(2))
    assert first == second


def test_role_split_and_exposure_are_as_asked(tmp_path):
    path = write(tmp_path, [qa("A?", "x"), qa("B?", "x")])
    seen = {sample_id("oeqa", "A?", None): "often"}
    rows = read_files([path], preset="qa", role="test", split="mine", exposure=seen).samples.to_pylist()
    assert [(r["role"], r["split"], r["exposure"]) for r in rows] == [
        ("test", "mine", "often"),
        ("test", "mine", None),
    ]


def test_one_path_may_be_given_without_a_list(tmp_path):
    assert questions(read_files(str(write(tmp_path, [qa("A?", "x")])), preset="qa")) == ["A?"]
