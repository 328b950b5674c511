"""The report: what its numbers are, what it says when something is missing, and that nothing in it is a script."""

import json
import re
import shlex
import subprocess
import sys
from html import unescape
from pathlib import Path

import click
import numpy as np
import polars as pl
import pytest

from gradstore.errors import StoreError
from gradstore.pipelines.candidates import StoredVectors
from gradstore.pipelines.ingest import ingest
from gradstore.pipelines.report import figures, report
from gradstore.pipelines.select import select
from gradstore.report import health, weights
from gradstore.report.commands import commands
from gradstore.report.influence import influence
from gradstore.report.knowledge import knowledge_map
from gradstore.report.page import Fact, Listing, Page, Section, as_json, render, vega
from gradstore.report.subjects import subjects
from gradstore.selection import Settings
from gradstore.selection.coverage import coverage
from gradstore.store import GradientStore

HOSTILE = "<img src=x onerror=alert(1)></script><b>"
KEYS = ["knowledge_map", "influence", "weights", "subjects", "coverage", "norms", "statuses"]  # before a second probe


@pytest.fixture(scope="module")
def store(world, tmp_path_factory):
    """A copy of the world's store with one selection."""
    folder = tmp_path_factory.mktemp("report") / "store"
    world.copy(folder)
    store = GradientStore.open(folder)
    select(store, "g", Settings(known=9, unknown=6))
    return store


@pytest.fixture(scope="module")
def drawn(store):
    return figures(store)


def points_of(figure):
    return figure["datasets"]["points"]


def bins_of(figure):
    return next(
        part["data"]["values"] for part in (figure, *figure["layer"]) if part.get("data", {}).get("name") == "bins"
    )


def test_figures_come_in_page_order_and_their_points_name_samples(store, drawn):
    assert list(drawn) == KEYS
    train = set(store.scan("samples").filter(pl.col("role") == "train").collect()["sample_id"])
    for key in ("knowledge_map", "influence"):
        assert {p["sample_id"] for p in points_of(drawn[key])} == train
    assert all(f["usermeta"]["title"] for f in drawn.values())
    assert "colour" not in json.dumps(drawn)
    assert not re.search(r'"#[0-9a-fA-F]{6}"', json.dumps(drawn)), "a figure has a colour of its own, in both themes"


def test_the_same_store_gives_the_same_bytes(store):
    before = {str(f): f.stat().st_mtime_ns for f in Path(store.uri).rglob("*")}
    assert report(store) == report(store, "g")
    assert {str(f): f.stat().st_mtime_ns for f in Path(store.uri).rglob("*")} == before, "a report writes nothing"


def test_the_page_refers_to_nothing_outside_and_holds_vega_once(store):
    html = report(store)
    assert html.count(vega()) == 1
    rest = unescape(html.replace(vega(), ""))
    assert not re.findall(r"""(?:src|href|action|url)\s*[=(]\s*["']?(?!["']?data:)[^"'\s>]+""", rest)
    assert "default-src 'none'" in rest
    assert "unsafe" not in rest


def test_the_knowledge_map_counts_what_the_selection_divided(store, drawn):
    rows = store.scan("selections").collect()
    counts = dict(rows.group_by("knowledge").len().iter_rows())
    assert f"{counts['known']} known. {counts['unknown']} unknown." in drawn["knowledge_map"]["usermeta"]["caption"]
    for p in points_of(drawn["knowledge_map"]):
        assert abs(p["x"] - p["correctness"]) < 0.02, "a spread point lies far from its correctness"


def test_the_influence_picture_marks_the_selection_and_no_more(store, drawn):
    marks = {p["sample_id"]: p["mark"] for p in points_of(drawn["influence"])}
    names = {"answer": "keeps its answer", "refusal": "refuses", None: "not selected"}
    rows = store.scan("selections").select("sample_id", "response", "i_ref").collect()
    assert marks == {i: names[r] for i, r, _ in rows.iter_rows()}
    assert drawn["influence"]["params"][0]["name"] == "brush"
    assert [p["mark"] for p in points_of(drawn["influence"])][-1] == "refuses", "something lies on top of a refusal"


def test_coverage_is_that_of_the_selection(store, drawn):
    rows = store.scan("selections").collect()
    group = rows.filter(pl.col("knowledge") == "unknown")["sample_id"].to_list()
    chosen = rows.filter(pl.col("response") == "refusal")["sample_id"].to_list()
    run = store.scan("runs").filter(pl.col("stage") == "select").collect()["settings"][-1]
    settings = json.loads(run)
    stored = StoredVectors(store, settings["recipe_id"], settings["checkpoints"], frozenset(group))
    numbers = coverage(stored(group, "refusal"), stored(chosen, "refusal"))
    assert f"it is {numbers['coverage']:.3f}" in drawn["coverage"]["usermeta"]["caption"]
    bins = bins_of(drawn["coverage"])
    assert sum(b["questions"] for b in bins) == len(group) - len(chosen)


def test_effective_sample_size_is_what_select_said(store):
    chosen = select(store, "g", Settings(known=9, unknown=6))
    assert f"{chosen.effective_size:.1f}" in re.search(r"Effective sample size</dt><dd>([\d.]+)", report(store))[1]


def test_every_row_is_in_a_histogram_of_norms():
    for values in ([1.0, 1.0], [0.5, 3.0, 7.0], [1e-6, 1.0, 1e6]):
        rows = pl.DataFrame(
            {"response": ["answer"] * len(values), "norm": values}, schema_overrides={"norm": pl.Float32}
        )
        spec = health.norms(rows)
        bins = bins_of(spec)
        assert sum(b["questions"] for b in bins) == len(values), f"{values}: a norm fell outside the bins"


def test_a_status_that_is_not_ok_is_counted():
    counts = pl.DataFrame({"status": ["ok", "nan"], "response": ["answer", "refusal"], "rows": [5, 2]})
    assert "5 of 7 rows are ok" in health.statuses(counts)["usermeta"]["caption"]


def many(n):
    """n points of a store that never was."""
    random = np.random.default_rng(0)
    numbers = {c: random.random(n) for c in ("correctness", "certainty", "i_ref", "i_over")}
    ids = [f"s{i:06d}" for i in range(n)]
    texts = {"sample_id": ids, "question": ids, "answer": ids}
    side = np.where(numbers["correctness"] >= 0.5, "known", "unknown")
    return pl.DataFrame({**texts, **numbers, "side": side, "mark": ["not selected"] * n, "weight": random.random(n)})


def test_more_points_than_a_browser_draws_are_sampled_and_it_says_so():
    frame = many(12_000)
    shuffled = frame.sample(fraction=1, shuffle=True, seed=3)
    for draw in (lambda f: knowledge_map(f, 0.5), influence):
        spec = draw(frame)
        assert len(points_of(spec)) == 10_000
        assert "A sample: 10,000 of 12,000 shown." in spec["usermeta"]["caption"]
        assert draw(shuffled) == spec, "the sample hangs on the order of the rows"
    picked = frame.with_columns(mark=pl.lit("refuses"))
    assert "10,000 of 12,000" in weights.weights(picked, {"refuses": 9000.0})["usermeta"]["caption"]
    whole = knowledge_map(many(100), 0.5)
    assert "sample" not in whole["usermeta"]["caption"]
    assert len(points_of(whole)) == 100


def test_many_subjects_are_cut_aloud():
    frame = pl.DataFrame(
        {"subject": [f"subject {i}" for i in range(57)], "side": ["known"] * 57, "mark": ["refuses"] * 57}
    )
    assert "The 40 largest of 57 subjects are shown." in subjects(frame)["usermeta"]["caption"]


def test_nan_is_null_and_not_a_word():
    frame = many(3).with_columns(i_ref=pl.Series([float("nan"), 1.0, None]))
    assert "NaN" not in as_json(influence(frame))
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json({"i_ref": float("nan")})


@pytest.mark.parametrize("text", [HOSTILE, "<!--<script>", "\u2028", "&lt;"])
def test_json_in_a_script_cannot_end_it(text):
    written = as_json({"question": text})
    assert not set("<>&\u2028\u2029") & set(written)
    assert json.loads(written) == {"question": text}


def test_every_text_of_the_page_is_escaped():
    figure = {"usermeta": {"title": HOSTILE, "caption": HOSTILE}, "description": HOSTILE}
    sections = [
        Section("influence", HOSTILE, HOSTILE, figure),
        Section("b", HOSTILE, HOSTILE, missing=HOSTILE, command=HOSTILE),
    ]
    listings = [Listing(HOSTILE, [HOSTILE], [[HOSTILE]])]
    html = render(Page(HOSTILE, HOSTILE, [Fact(*[HOSTILE] * 3)], [HOSTILE], sections, listings, [HOSTILE]))
    html = html.replace(vega(), "")
    assert HOSTILE not in html
    assert "<img" not in html
    assert html.count("&lt;img src=x onerror=alert(1)&gt;") >= 16


def test_an_empty_store_says_what_it_lacks(tmp_path):
    html = report(GradientStore.create(tmp_path / "store"))
    assert "The store has no questions to train on." in html
    assert f"gradstore ingest {tmp_path / 'store'} FILE --preset PRESET" in html
    assert "<script" not in html


def test_a_store_that_was_only_filled_names_the_next_commands(world, tmp_path):
    ingest(tmp_path / "store", [world.folder / "train.jsonl"], preset="qa")
    store = GradientStore.open(tmp_path / "store")
    assert figures(store) == {}
    html = report(store)
    for command in ("probe", "extract", "select"):
        assert f"<code>gradstore {command} {tmp_path / 'store'}" in html


def test_a_store_without_selections_and_one_with_several(world, store, tmp_path):
    copied = tmp_path / "store"
    world.copy(copied)
    bare = GradientStore.open(copied)
    bare.delete("selections", "true")
    bare.delete("influence", "true")
    assert set(figures(bare)) >= {"knowledge_map", "subjects", "norms", "statuses"}
    assert not {"weights", "coverage"} & set(figures(bare))
    select(bare, "a", Settings(method="random", known=5, unknown=5))
    assert "weights" in figures(bare)
    select(bare, "b", Settings(known=9, unknown=6))
    html = report(bare)
    assert "The store holds 2 selections, none is shown: name one of a, b." in html
    assert f"gradstore report {copied} NAME" in html
    assert "Scores were computed for selection b." in figures(bare, "a")["influence"]["usermeta"]["caption"]


def test_a_selection_that_is_not_there_is_named_with_those_that_are(store, gradstore, tmp_path):
    with pytest.raises(StoreError, match=r"no selection 'h' in .*: there are g"):
        report(store, "h")
    code, out, err = gradstore("report", store.uri, "h", "--out", tmp_path / "r.html")
    assert (code, out) == (1, "")
    assert err.startswith("error: no selection 'h'")
    assert not (tmp_path / "r.html").exists()


def test_warnings_say_what_was_asked_and_what_came(world, tmp_path):
    world.copy(tmp_path / "store")
    store = GradientStore.open(tmp_path / "store")
    select(store, "all", Settings(known=9, unknown=100_000))
    assert re.search(r"100,000 unknown samples were asked for, \d+ are selected\.", report(store, "all"))
    assert "No unknown question with a gradient is left out" in report(store, "all")


def test_the_commands_are_commands(store, tmp_path):
    """Every line parses by the command that it names; a select that is run again finds its own selection."""
    from gradstore.cli.main import cli

    html = report(store)
    block = re.search(r"<pre><code>(.*?)</code></pre>", html, re.S)[1]
    lines = [shlex.split(line) for line in unescape(block).strip().splitlines()]
    assert [line[1] for line in lines] == ["ingest", "ingest", "probe", "warmup", "extract", "select"]
    for _, name, *arguments in lines:
        command = cli.get_command(click.Context(cli), name)
        command.make_context(name, list(arguments))
    from gradstore.cli.main import main

    before = store.versions(["selections"])
    main(lines[-1][1:])
    assert store.versions(["selections"]) == before, "the printed select made another selection"


def test_commands_are_quoted_and_leave_out_what_failed():
    runs = [
        {
            "stage": "ingest",
            "status": "finished",
            "settings": {"files": ["a b.jsonl; rm"], "fields": {"question": "q"}},
        },
        {"stage": "ingest", "status": "failed", "settings": {"files": ["no"]}},
        {"stage": "select", "status": "finished", "settings": {"name": "other", "known": 3}},
    ]
    assert commands("my store", runs, "g", {}, {}) == ["gradstore ingest 'my store' 'a b.jsonl; rm' --field question=q"]


def test_the_command_writes_the_page_and_the_pictures(store, gradstore, tmp_path):
    code, out, err = gradstore("report", store.uri, "--out", tmp_path / "r.html", "--png", tmp_path / "png", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (tmp_path / "r.html").stat().st_size == told["bytes"]
    assert [p.rsplit("/", 1)[1] for p in told["figures"]] == [f"{key}.png" for key in KEYS]
    for path in told["figures"]:
        with open(path, "rb") as file:
            assert file.read(8) == b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow  # in a process of its own; the wheel's test does it with the real thing
def test_a_report_needs_no_torch(store, tmp_path):
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'peft', 'trl', 'accelerate', 'tokenizers', 'safetensors'):\n"
        "    sys.modules[name] = None\n"
        "from gradstore.cli.main import main\n"
        f"main(['report', {store.uri!r}, '--out', {str(tmp_path / 'r.html')!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "<!doctype html>" in (tmp_path / "r.html").read_text()
