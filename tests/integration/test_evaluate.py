"""Evaluation on a small real model: files in, verdicts, confidences and numbers out, and two models compared."""

import json
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch

from gradstore.errors import InputFileError, StoreError
from gradstore.identity import row_id
from gradstore.judging import judge_reference
from gradstore.models import answering
from gradstore.models.encoding import encode_prompt
from gradstore.models.loading import load_model
from gradstore.pipelines.evaluate import answers_with_confidence, compare, evaluate, trained_ids
from gradstore.pipelines.ingest import ingest
from gradstore.pipelines.metrics import differences, disagreements, measure, read_evaluation, report
from gradstore.pipelines.questions import QuestionFile, ingest_questions, read_refusal_texts
from gradstore.pipelines.work import read_samples
from gradstore.prompts import TEMPLATES, Prompt
from gradstore.schemas import TABLES
from gradstore.store import GradientStore, query
from tests import reference_evaluation


@pytest.fixture(scope="module")
def files(world, tmp_path_factory):
    """In-distribution questions with subjects, out-of-distribution ones, and some of those trained on."""
    folder = tmp_path_factory.mktemp("files")
    test = (world.folder / "test.jsonl").read_text().splitlines()
    train = (world.folder / "train.jsonl").read_text().splitlines()
    with_subject = [json.dumps(json.loads(t) | {"subject": ["law", "art"][i % 2]}) for i, t in enumerate(test[:40])]
    (folder / "people.jsonl").write_text("\n".join(with_subject))
    (folder / "other.jsonl").write_text("\n".join(test[40:60]))
    (folder / "seen.jsonl").write_text("\n".join(train[:10] + test[:4]))
    return folder


@pytest.fixture(scope="module")
def evaluated(world, files, tmp_path_factory):
    """A store of its own: the initial model, and the warm-up's two epochs as the refined ones, on both files."""
    uri = str(tmp_path_factory.mktemp("evaluated") / "store")
    asked = ingest_questions(
        uri,
        [QuestionFile(str(files / "people.jsonl"), "qa", "id"), QuestionFile(str(files / "other.jsonl"), "qa", "ood")],
    )
    store = GradientStore.open(uri)
    evaluate(store, "init", world.options, template="basic", questions=asked, max_new_tokens=8)
    for epoch in (1, 2):
        adapter = world.folder / "warmup" / f"epoch-{epoch}"
        evaluate(store, f"tuned-{epoch}", world.options, adapter=adapter, questions=asked, max_new_tokens=8)
    return store


# -- answers and their confidence ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked(world):
    loaded = load_model(world.options.model)
    samples = dict(list(read_samples(world.store, "test").items())[:12])
    return loaded, Prompt(TEMPLATES["basic"]), samples


def test_confidence_changes_no_text(asked):
    loaded, prompt, samples = asked
    ids = [encode_prompt(loaded.tokenizer, prompt.ask(s)) for s in samples.values()]
    texts = answering.greedy_answers(loaded, ids, 8)
    pairs = answering.greedy_answers_with_confidence(loaded, ids, 8)
    assert [text for text, _ in pairs] == texts
    by_id = answers_with_confidence(loaded, prompt, samples, 8, 2048)
    assert {i: text for i, (text, _) in by_id.items()} == dict(zip(samples, texts, strict=True))
    assert all(0 < c <= 1 for _, c in pairs)


def test_confidence_is_the_geometric_mean_of_the_answers_tokens(asked):
    """Token by token with no generate(): forward, take the most likely, until an answer ends."""
    loaded, prompt, samples = asked
    said = answers_with_confidence(loaded, prompt, samples, 8, 2048)
    lengths = set()
    for i, sample in samples.items():
        ids, logs = list(encode_prompt(loaded.tokenizer, prompt.ask(sample))), []
        while len(logs) < 8:
            with torch.inference_mode():
                scores = torch.log_softmax(loaded.model(torch.tensor([ids])).logits[0, -1].double(), dim=-1)
            token = int(scores.argmax())
            ids.append(token)
            logs.append(float(scores[token]))
            if token in loaded.stop_tokens:
                break
        lengths.add(len(logs))
        assert said[i][1] == pytest.approx(math.exp(sum(logs) / len(logs)), rel=1e-4), (
            "the token that ends an answer counts, padding after it does not"
        )
    assert len(lengths) > 1 or min(lengths) < 8, "no answer ended early: padding was not tested"


def test_confidence_does_not_depend_on_the_batch(asked):
    loaded, prompt, samples = asked
    together = answers_with_confidence(loaded, prompt, samples, 8, 4096)
    alone = answers_with_confidence(loaded, prompt, samples, 8, 1)
    assert {i: t for i, (t, _) in together.items()} == {i: t for i, (t, _) in alone.items()}
    assert [c for _, c in together.values()] == pytest.approx([alone[i][1] for i in together], rel=1e-4)


# -- what is stored --------------------------------------------------------------------------------------------


def test_rows_hold_both_verdicts_confidence_and_where_a_question_is_from(evaluated):
    frame = read_evaluation(evaluated, "tuned-2")
    assert frame.height == 60
    assert frame["confidence"].is_between(0, 1).all()
    assert dict(frame.group_by("distribution").len().iter_rows()) == {"id": 40, "ood": 20}
    samples = read_samples(evaluated, "test")
    for row in frame.iter_rows(named=True):
        assert row["verdict_reference"] == judge_reference(samples[row["sample_id"]], row["output"])
    assert set(frame["split"]) == {"people", "other"}


def test_numbers_are_stored_by_scope_and_subject_and_equal_their_twins(evaluated):
    rows = measure(evaluated, "tuned-2", "init")
    stored = query(evaluated, "SELECT * FROM metrics WHERE evaluation = 'tuned-2'").collect()
    assert sorted(stored["row_id"]) == sorted(r["row_id"] for r in rows)
    assert set(stored["scope"]) == {"all", "id", "ood", "qa/people", "qa/other", "macro", "subject"}
    assert {"law", "art"} < set(stored["subject"].drop_nulls())
    both = read_evaluation(evaluated, "tuned-2").join(
        read_evaluation(evaluated, "init").select("sample_id", pl.col("verdict").alias("initial")), on="sample_id"
    )
    for scope, part in {"all": both, "id": both.filter(pl.col("distribution") == "id")}.items():
        expected = reference_evaluation.numbers(list(part.select("initial", "verdict").iter_rows()))
        found = {r["metric"]: r["value"] for r in rows if r["scope"] == scope}
        for name, value in expected.items():
            assert found[name] == (None if value is None else pytest.approx(value)), (scope, name)
        assert 0 <= found["aurc"] <= 1
    assert all(r["note"] for r in rows if r["value"] is None)
    assert all(r["low"] <= r["high"] for r in rows if r["low"] is not None)
    assert {r["against"] for r in rows if r["metric"] in ("ths", "ths_of_macro_shares")} == {"init"}
    assert {r["against"] for r in rows if r["metric"] in ("correct", "aurc")} == {None}


def test_measuring_again_replaces_and_another_evaluation_of_the_name_takes_its_numbers_along(evaluated, world, files):
    count = len(measure(evaluated, "tuned-1", "init"))
    before = evaluated.scan("metrics").filter(pl.col("evaluation") == "tuned-1").sort("row_id").collect()
    measure(evaluated, "tuned-1", "init")
    after = evaluated.scan("metrics").filter(pl.col("evaluation") == "tuned-1").sort("row_id").collect()
    assert after.equals(before), "the same seed gives the same intervals"
    assert after.height == count
    measure(evaluated, "tuned-1")  # without the initial model: what is beside it stays
    assert evaluated.scan("metrics").filter(pl.col("evaluation") == "tuned-1").collect().height == count
    copy = GradientStore.open(shutil.copytree(evaluated.uri, files / "copy"))
    few = dict.fromkeys(read_evaluation(copy, "init")["sample_id"][:5].to_list(), "id")
    evaluate(copy, "init", world.options, template="basic", questions=few, max_new_tokens=8)
    assert copy.scan("metrics").filter(pl.col("against") == "init").collect().height == 0


def test_the_report_sums_up_and_agrees_with_compare(evaluated):
    found = report(evaluated, "tuned-2", "init")
    plain = compare(evaluated, "init", "tuned-2")
    for name in ("correct", "wrong", "refused", "unparsed", "n", "ths", "over_refusal", "hallucinations_fixed"):
        assert found[name] == pytest.approx(plain[name])
    assert sum(n for row in found["transitions"].values() for n in row.values()) == 60
    count, first = disagreements(evaluated, "tuned-2")
    assert (found["judges_disagree"], found["disagreements"]) == (count, first)
    assert len(first) == min(count, 20)


def test_the_initial_model_scores_zero_beside_itself(evaluated):
    rows = {(r["scope"], r["metric"]): r for r in measure(evaluated, "init", "init")}
    assert (rows["all", "ths"]["value"], rows["all", "ths"]["low"], rows["all", "ths"]["high"]) == (0, 0, 0)


def test_an_undefined_ths_is_said(evaluated):
    known = read_evaluation(evaluated, "init").filter(pl.col("verdict") == "correct")
    rows = known.select(TABLES["evaluations"].schema.names).with_columns(
        pl.lit("knows-all").alias("evaluation"),
        pl.Series("row_id", [row_id("knows-all", i) for i in known["sample_id"]]),
    )
    evaluated.write("evaluations", rows.to_arrow().cast(TABLES["evaluations"].schema))
    found = [r for r in measure(evaluated, "tuned-2", "knows-all") if r["metric"] == "ths" and r["scope"] == "all"]
    assert found[0]["value"] is None
    assert "P_w = 0" in found[0]["note"]
    assert report(evaluated, "tuned-2", "knows-all")["ths"] is None


def test_names_that_are_not_there_list_those_that_are(evaluated):
    with pytest.raises(StoreError, match=r"no evaluation 'nope' in .*: there are init, .*tuned-1, tuned-2"):
        measure(evaluated, "nope")
    with pytest.raises(StoreError, match="no evaluation 'nope'"):
        measure(evaluated, "tuned-1", "nope")


# -- two refined models ----------------------------------------------------------------------------------------


def test_a_model_beside_itself_differs_by_nothing(evaluated):
    for row in differences(evaluated, "tuned-1", "tuned-1", "init"):
        if row["difference"] is None:
            assert row["note"]
        else:
            assert (row["difference"], row["low"], row["high"]) == (0, 0, 0), row
            assert row["a"] == row["b"]


def test_differences_are_those_of_the_two_reports_in_every_scope(evaluated):
    rows = differences(evaluated, "tuned-1", "tuned-2", "init")
    assert {r["scope"] for r in rows} == {"all", "id", "ood", "qa/people", "qa/other"}
    of = [
        {(r["scope"], r["metric"]): r["value"] for r in measure(evaluated, n, "init")} for n in ("tuned-1", "tuned-2")
    ]
    for row in rows:
        a, b = (found[row["scope"], row["metric"]] for found in of)
        assert (row["a"], row["b"]) == (a, b)
        if row["difference"] is not None:
            assert row["difference"] == pytest.approx(b - a)
            assert row["low"] <= row["high"]


def test_questions_that_only_one_answered_are_left_out_and_said(evaluated, world, tmp_path):
    copy = GradientStore.open(shutil.copytree(evaluated.uri, tmp_path / "s"))
    few = dict.fromkeys(read_evaluation(copy, "init")["sample_id"][:9].to_list(), "id")
    evaluate(copy, "few", world.options, template="basic", questions=few, max_new_tokens=8)
    told = []
    assert {r["n"] for r in differences(copy, "few", "tuned-2", "init", tell=told.append) if r["scope"] == "all"} == {9}
    assert told == ["51 questions that only one of few and tuned-2 answered are left out"]
    told.clear()
    assert {r["n"] for r in measure(copy, "tuned-2", "few", tell=told.append) if r["metric"] == "ths"} >= {9}
    assert told == ["51 of 60 questions were not asked of few: they are in no comparison with it"]


# -- files -----------------------------------------------------------------------------------------------------


def test_a_training_question_is_asked_and_known_to_be_trained_on(world, files, tmp_path):
    store = GradientStore.open(shutil.copytree(world.store_uri, tmp_path / "s"))
    asked = ingest_questions(store.uri, [QuestionFile(str(files / "seen.jsonl"), "qa", "id")])
    assert len(asked) == 14
    adapter, told = world.folder / "warmup" / "epoch-2", []
    evaluate(store, "seen", world.options, adapter=adapter, questions=asked, max_new_tokens=8, tell=told.append)
    rows = read_evaluation(store, "seen")
    trained = trained_ids(store, adapter, None)
    assert rows.filter(pl.col("trained_on"))["sample_id"].to_list() == sorted(trained & set(asked))
    assert rows["trained_on"].null_count() == 0
    number = int(rows["trained_on"].sum())
    assert 0 < number <= 10
    assert [t for t in told if t.startswith(f"{number} of the 14 questions are among those")]


def test_what_an_unknown_adapter_was_trained_on_is_said_by_a_selection(world, files, tmp_path):
    from gradstore.pipelines.select import select
    from gradstore.selection import Settings

    store = GradientStore.open(shutil.copytree(world.store_uri, tmp_path / "s"))
    asked = ingest_questions(store.uri, [QuestionFile(str(files / "seen.jsonl"), "qa", "id")])
    adapter = tmp_path / "adapter"
    ignored = shutil.ignore_patterns("checkpoint.json", "moments*")
    shutil.copytree(world.folder / "warmup" / "epoch-2", adapter, ignore=ignored)
    told = []
    evaluate(store, "u", world.options, adapter=adapter, questions=asked, max_new_tokens=8, tell=told.append)
    assert read_evaluation(store, "u")["trained_on"].null_count() == 14
    assert re.search(r"10 of the 14 questions are training samples .* --selection", " ".join(told))
    select(store, "all", Settings(known=1000, unknown=1000))
    evaluate(store, "s", world.options, adapter=adapter, selection="all", questions=asked, max_new_tokens=8)
    chosen = store.scan("selections").filter(pl.col("selection") == "all", pl.col("rank").is_not_null()).collect()
    marked = read_evaluation(store, "s").filter(pl.col("trained_on"))["sample_id"].to_list()
    assert marked == sorted(set(chosen["sample_id"]) & set(asked)) != []
    with pytest.raises(StoreError, match="no selection 'nope' in .*: there are all"):
        evaluate(store, "s", world.options, adapter=adapter, selection="nope", questions=asked)


def test_questions_of_two_files_and_with_other_answers(files, tmp_path):
    lines = [json.loads(line) for line in (files / "other.jsonl").read_text().splitlines()]
    lines[0] = {"question": lines[0]["question"], "answer": "quite another"}
    (tmp_path / "changed.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    ingest(tmp_path / "s", [files / "other.jsonl"], preset="qa", role="test")
    told = []
    both = [
        QuestionFile(str(files / "other.jsonl"), "qa", "id"),
        QuestionFile(str(tmp_path / "changed.jsonl"), "qa", "ood"),
    ]
    asked = ingest_questions(tmp_path / "s", both, tell=told.append)
    assert set(asked.values()) == {"id"}, "a question belongs to the first file"
    assert told == [
        f"1 questions of {tmp_path / 'changed.jsonl'} are stored with another answer and left out: see `rejects`",
        f"19 questions of {tmp_path / 'changed.jsonl'} are in an earlier file too and counted there",
    ]
    assert len(ingest_questions(tmp_path / "s", both[:1], limit=3)) == 3
    (tmp_path / "none.jsonl").write_text(json.dumps(lines[0]))
    with pytest.raises(InputFileError, match="no questions are left of .*none.jsonl: look at `rejects`"):
        ingest_questions(tmp_path / "s", [QuestionFile(str(tmp_path / "none.jsonl"), "qa", "id")])


def test_a_missing_file_leaves_no_store(files, tmp_path):
    given = [
        QuestionFile(str(files / "other.jsonl"), "qa", "id"),
        QuestionFile(str(tmp_path / "no.jsonl"), "qa", "ood"),
    ]
    with pytest.raises(InputFileError, match="no.jsonl"):
        ingest_questions(tmp_path / "s", given)
    assert not (tmp_path / "s").exists()


def test_refusal_texts_are_read_a_line_each(tmp_path):
    (tmp_path / "texts").write_text("Pass.\n\n  No idea \n")
    assert read_refusal_texts(tmp_path / "texts") == ["Pass.", "No idea"]
    (tmp_path / "empty").write_text("\n")
    for name in ("empty", "missing"):
        with pytest.raises(InputFileError, match="give a file of one refusal a line"):
            read_refusal_texts(tmp_path / name)


# -- outputs that say nothing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "remark"),
    [("", "all 6 outputs are empty"), ("hm", "none of the 6 outputs could be read as one of the options")],
)
def test_outputs_that_say_nothing_are_one_clear_line(world, tmp_path, monkeypatch, output, remark):
    from gradstore.pipelines import evaluate as module

    lines = [json.dumps({"question": f"q{i}?", "choices": ["x", "y"], "answer": "x"}) for i in range(6)]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    asked = ingest_questions(tmp_path / "s", [QuestionFile(str(tmp_path / "c.jsonl"), "qa", "id")])
    store, told = GradientStore.open(tmp_path / "s"), []
    monkeypatch.setattr(
        module, "answers_with_confidence", lambda _, __, samples, *rest: dict.fromkeys(samples, (output, np.nan))
    )
    evaluate(store, "e", world.options, template="basic", questions=asked, tell=told.append)
    assert len(told) == 1
    assert told[0].startswith(remark)
    assert "gradstore query" in told[0]
    rows = {r["metric"]: r for r in measure(store, "e") if r["scope"] == "all"}
    assert rows["aurc"]["value"] is None, "a confidence that is not a number is none"
    assert rows["aurc"]["note"].startswith("undefined: 6 answers have no confidence")


# -- stores from before ----------------------------------------------------------------------------------------


def test_a_store_from_before_gains_the_table_and_its_evaluations_are_read(evaluated, tmp_path):
    """No table metrics, and evaluations without the newer columns."""
    import lancedb

    uri = str(tmp_path / "s")
    shutil.copytree(evaluated.uri, uri)
    shutil.rmtree(tmp_path / "s" / "metrics.lance")
    later = ["verdict_reference", "confidence", "trained_on", "distribution"]
    lancedb.connect(uri).open_table("evaluations").drop_columns(later)
    store = GradientStore.open(uri)
    assert query(store, "SELECT COUNT(*) AS n FROM metrics").collect().item() == 0
    assert store.row_counts()["metrics"] == 0
    rows = measure(store, "tuned-2", "init")
    assert {r["scope"] for r in rows} == {"all", "qa/people", "qa/other", "macro", "subject"}
    assert next(r for r in rows if r["metric"] == "aurc")["note"].startswith("undefined")
    assert query(store, "SELECT COUNT(*) AS n FROM metrics").collect().item() == len(rows)
    assert disagreements(store, "tuned-2") == (0, [])
    assert all(
        r["difference"] is None for r in differences(store, "tuned-1", "tuned-2", "init") if r["metric"] == "aurc"
    )


def test_a_new_store_has_the_table(tmp_path):
    store = GradientStore.create(tmp_path / "s")
    assert "metrics" in store.versions()
    store.write("metrics", TABLES["metrics"].schema.empty_table())
    store.delete("metrics", "true")


# -- the command -----------------------------------------------------------------------------------------------


def test_one_call_reads_files_asks_judges_and_measures(gradstore, world, files, tmp_path):
    uri = tmp_path / "s"
    model = ["--model", world.options.model, "--device", "cpu", "--max-new-tokens", "8"]
    data = ["--data", files / "people.jsonl", "--ood", files / "other.jsonl", "--preset", "qa"]
    code, out, err = gradstore("evaluate", uri, *model, *data, "--name", "init", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["correct"] + found["wrong"] + found["refused"] + found["unparsed"] == pytest.approx(1)
    assert found["n"] == 60
    (tmp_path / "refusals").write_text("Nobody knows.\n")
    tuned = ["--adapter", world.folder / "warmup" / "epoch-2", "--refusal-texts", tmp_path / "refusals"]
    code, out, err = gradstore("evaluate", uri, *model, *tuned, *data, "--name", "tuned", "--against", "init")
    assert code == 0, err
    assert re.search(r"^\s+all\s+id\s+ood\s+qa/other\s+qa/people\s+macro$", out, flags=re.MULTILINE)
    assert re.search(r"^ths +-?\d\.\d{3} \[-?\d\.\d{3}, -?\d\.\d{3}\]", out, flags=re.MULTILINE)
    assert re.search(r"^law +20 ", out, flags=re.MULTILINE)
    assert re.search(r"differ on \d+ of 60 questions", out)
    code, out, err = gradstore("evaluate", uri, "--compare", "init", "tuned", "--against", "init", "--json")
    assert code == 0, err
    assert {r["scope"] for r in json.loads(out)["differences"]} == {"all", "id", "ood", "qa/people", "qa/other"}
    code, out, err = gradstore("evaluate", uri, "--compare", "init", "tuned", "--against", "init")
    assert code == 0, err
    assert re.search(r"^scope +metric +n +init +tuned +tuned − init$", out, flags=re.MULTILINE)


def test_a_stored_evaluation_is_measured_again_without_a_model(gradstore, evaluated):
    code, out, err = gradstore("evaluate", evaluated.uri, "--name", "tuned-2", "--against", "init", "--json")
    assert code == 0, err
    assert json.loads(out)["ths"] == pytest.approx(compare(evaluated, "init", "tuned-2")["ths"])
    code, out, _ = gradstore("evaluate", evaluated.uri, "--name", "tuned-2", "--disagreements")
    assert code == 0
    assert out.count(", reference ") == disagreements(evaluated, "tuned-2")[0]


def test_wrong_usage(gradstore, evaluated, world, tmp_path):
    uri = evaluated.uri
    assert gradstore("evaluate", uri)[0] == 2
    assert gradstore("evaluate", uri, "--compare", "init", "tuned-1")[0] == 2
    model = ["--model", world.options.model, "--name", "x"]
    assert gradstore("evaluate", uri, *model, "--data", "f")[0] == 2
    assert (
        gradstore("evaluate", uri, *model, "--data", "f", "--data", "g", "--data", "h", *["--preset", "qa"] * 2)[0] == 2
    )
    code, _, err = gradstore("evaluate", uri, "--name", "nope")
    assert code == 1
    assert "no evaluation 'nope'" in err
    code, _, err = gradstore(
        "evaluate", tmp_path / "s", "--model", tmp_path, "--name", "x", "--data", "f", "--preset", "qa"
    )
    assert code == 1
    assert not (tmp_path / "s").exists()


def test_stored_evaluations_are_compared_where_torch_is_not_installed(evaluated):
    from tests.test_architecture import TORCH, run_without

    code = (
        "from gradstore.cli.main import main\n"
        f"main(['evaluate', {evaluated.uri!r}, '--compare', 'tuned-1', 'tuned-2', '--against', 'init'])\n"
        f"main(['evaluate', {evaluated.uri!r}, '--name', 'tuned-1', '--against', 'init'])"
    )
    done = run_without(TORCH, code)
    assert done.returncode == 0, done.stderr
    assert "tuned-2 − tuned-1" in done.stdout


def test_rows_of_samples_asked_by_role_say_nothing_of_distribution(world, tmp_path):
    ingest(tmp_path / "s", [world.folder / "test.jsonl"], preset="qa", role="test", limit=6)
    store = GradientStore.open(tmp_path / "s")
    evaluate(store, "e", replace(world.options, batch_tokens=512), template="basic", max_new_tokens=8)
    frame = read_evaluation(store, "e")
    assert frame.height == 6
    assert frame["distribution"].null_count() == frame["trained_on"].null_count() == 6
    assert isinstance(frame.to_arrow(), pa.Table)
