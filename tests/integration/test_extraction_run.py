"""A run of extraction as a user meets it: estimate, remarks, shards, memory, fresh adapters, what goes wrong."""

import json
import shutil
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch

from gradstore.errors import CheckpointError, GradstoreError, ResourceError
from gradstore.models.checkpoints import read_checkpoint
from gradstore.models.encoding import Encoded
from gradstore.models.extraction import Extractor, Item
from gradstore.models.memory import find_batch_tokens, is_out_of_memory
from gradstore.pipelines import estimate, gradient_rows
from gradstore.pipelines.extract import extract, extract_on
from gradstore.pipelines.fresh import fresh_adapter
from gradstore.pipelines.ingest import ingest
from gradstore.pipelines.lab.people import people as lab_people
from gradstore.pipelines.probe import ProbeSettings, probe, probe_on
from gradstore.pipelines.recipes import ExtractSettings, HowToRun
from gradstore.pipelines.shards import Shard
from gradstore.store import GradientStore

SETTINGS = ExtractSettings(dim=128)


@pytest.fixture(scope="module")
def prepared(world, tmp_path_factory):
    """The small world before its extraction; tests copy it."""
    folder = tmp_path_factory.mktemp("prepared") / "store"
    shutil.copytree(world.store_uri, folder)
    for recipe in GradientStore.open(folder).recipe_ids():
        shutil.rmtree(folder / f"gradients_{recipe}.lance")
    return folder


@pytest.fixture
def store(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "store")
    return GradientStore.open(tmp_path / "store")


@pytest.fixture(scope="module")
def epoch(world):
    return world.folder / "warmup" / "epoch-2"


def rows_of(store):
    return store.scan(f"gradients_{store.recipe_ids()[0]}").sort("row_id").collect()


def vectors(frame):
    return frame["vector"].to_numpy().astype(np.float64)


@pytest.fixture(scope="module")
def whole(prepared, world, epoch, tmp_path_factory):
    """All rows, made by one process."""
    folder = tmp_path_factory.mktemp("whole") / "store"
    shutil.copytree(prepared, folder)
    store = GradientStore.open(folder)
    said: list[str] = []
    counts = extract(store, world.options, [epoch], SETTINGS, tell=said.append)
    return counts, said, rows_of(store)


def test_a_run_says_what_it_takes_and_what_came_out(whole):
    counts, said, frame = whole
    assert counts["new"] == counts["ok"] == frame.height == 2 * counts["samples"]
    assert {"seconds", "rows_per_second", "tokens_per_second", "peak_mb", "batch_tokens"} <= counts.keys()
    assert any("learning rate" in s for s in said)
    assert any(f"{frame.height} of {frame.height} rows to make" in s for s in said)
    assert counts["shared_prompts"] == counts["samples"], "short replies to long prompts share them"
    features = counts["features"]
    assert 0 < features["cosine_to_sign"] <= 1
    for response in ("answer", "refusal"):
        unit = vectors(frame.filter(pl.col("response") == response))
        pairwise = (unit @ unit.T)[np.triu_indices(len(unit), 1)].mean()
        assert features[f"mean_cosine_{response}"] == pytest.approx(pairwise, abs=2e-3)


def test_prompts_shared_or_not_make_the_same_rows(whole, store, world, epoch):
    counts = extract(store, world.options, [epoch], SETTINGS, HowToRun(share_prompts=False))
    assert counts["shared_prompts"] == 0
    assert_same_rows(rows_of(store), whole[2])


def assert_same_rows(found, expected):
    assert found["row_id"].to_list() == expected["row_id"].to_list()
    assert found["status"].to_list() == expected["status"].to_list()
    assert np.abs(vectors(found) - vectors(expected)).max() < 1e-3
    assert np.allclose(found["norm"], expected["norm"], rtol=1e-3)


def test_two_shards_make_what_one_process_makes(whole, store, world, epoch):
    parts = [extract(store, world.options, [epoch], SETTINGS, HowToRun(shard=Shard(i, 2))) for i in (0, 1)]
    assert sum(p["new"] for p in parts) == whole[0]["new"]
    assert all(p["new"] for p in parts)
    assert_same_rows(rows_of(store), whole[2])


def test_two_devices_make_what_one_process_makes(whole, store, world, epoch):
    seen: set[str] = set()
    counts = extract_on(
        ["cpu", "cpu"],
        store.uri,
        world.options,
        [epoch],
        SETTINGS,
        HowToRun(),
        progress=lambda stage, done, total, note="": seen.add(stage),
    )
    assert counts["new"] == whole[0]["new"]
    assert seen
    assert_same_rows(rows_of(store), whole[2])


@pytest.mark.slow
def test_probes_of_two_devices_are_those_of_one(world, store, tmp_path):
    settings = ProbeSettings(max_new_tokens=4, n_samples=2, seed=9)
    counts = probe_on(["cpu", "cpu"], store.uri, world.options, settings, None, "train")
    shutil.copytree(world.store_uri, tmp_path / "alone")
    alone = GradientStore.open(tmp_path / "alone")
    found = probe(alone, world.options, settings)
    assert counts["new"] == found["new"]
    frames = [
        s.scan("probes").filter(pl.col("probe_id") == found["probe_id"]).sort("row_id").collect()
        for s in (store, alone)
    ]
    assert frames[0].select("row_id", "generations").equals(frames[1].select("row_id", "generations"))


def test_two_extractors_on_one_store_make_every_row_once(whole, store, world, epoch):
    """At once, asked for the same: the second takes the first for a killed run, and works from the other end."""
    counts: list[dict] = []
    options = replace(world.options, batch_tokens=256)
    threads = [
        threading.Thread(
            target=lambda: counts.append(extract(GradientStore.open(store.uri), options, [epoch], SETTINGS))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counts) == 2, "an extractor failed because there was another"
    frame = rows_of(store)
    assert frame["row_id"].n_unique() == frame.height
    assert_same_rows(frame, whole[2])


def test_an_estimate_writes_nothing(store, world, epoch):
    before = store.row_counts()
    found = extract(store, world.options, [epoch, epoch], SETTINGS, HowToRun(estimate_only=True))
    assert store.row_counts() == before
    assert not store.recipe_ids()
    assert (
        found["rows"]
        == found["wanted"]
        == 2 * 2 * store.scan("samples").filter(pl.col("role") == "train").collect().height
    )
    assert found["disk_bytes"] >= found["rows"] * 2 * 128
    assert found["memory_bytes"] > 0
    assert found["seconds"] > 0


def test_a_full_disk_is_seen_before_anything_is_written(store, world, epoch, monkeypatch):
    """The free space is what is pretended; everything else is real."""
    monkeypatch.setattr(estimate, "_free", lambda uri: 1000)
    with pytest.raises(ResourceError, match=r"gradient rows take .* MB, 0 MB are free .* nothing was started"):
        extract(store, world.options, [epoch], SETTINGS)
    assert not store.recipe_ids()
    assert "failed" in store.scan("runs").collect()["status"].to_list()


def test_the_disk_must_hold_what_all_shards_make_but_not_what_is_there(store, world, epoch, monkeypatch):
    found = extract(store, world.options, [epoch], SETTINGS, HowToRun(estimate_only=True))
    monkeypatch.setattr(estimate, "_free", lambda uri: int(0.7 * found["disk_bytes"]))
    with pytest.raises(ResourceError, match="nothing was started"):
        extract(store, world.options, [epoch], SETTINGS, HowToRun(shard=Shard(0, 2)))
    monkeypatch.undo()
    extract(store, world.options, [epoch], SETTINGS, HowToRun(shard=Shard(0, 2)))
    monkeypatch.setattr(estimate, "_free", lambda uri: int(0.7 * found["disk_bytes"]))
    extract(store, world.options, [epoch], SETTINGS)


def test_batch_tokens_are_found_once_and_recorded(store, world, epoch):
    said: list[str] = []
    options = replace(world.options, batch_tokens=None)
    counts = extract(store, options, [epoch], SETTINGS, tell=said.append)
    assert any(f"--batch-tokens {counts['batch_tokens']} repeats it" in s for s in said)
    plans = store.scan("runs").filter(pl.col("stage") == "extract", pl.col("plan").is_not_null()).collect()["plan"]
    assert f'"batch_tokens": {counts["batch_tokens"]}' in plans.to_list()[-1]


def test_throughput_decides_where_memory_does_not():
    """It stops where a larger batch is no faster a token."""
    import time

    tried = []

    def run(tokens):
        tried.append(tokens)
        time.sleep(0.01 + tokens * (1e-6 if tokens <= 4096 else 1e-4))

    assert find_batch_tokens(run, torch.device("cpu"), longest=700) in (2048, 4096)
    assert min(tried) == 1024, "a batch must hold the longest row"
    assert max(tried) <= 8192


def test_a_batch_that_does_not_fit_is_halved_and_a_sample_that_does_not_is_left_for_later(store, world, epoch, whole):
    """The allocator's own error, raised where a batch is larger than a limit; everything else is real."""
    said: list[str] = []
    samples = store.scan("samples").filter(pl.col("role") == "train").sort("sample_id").collect()["sample_id"].to_list()
    large = samples[3]
    original = Extractor.pair_rows

    def limited(self, pairs):
        if len(pairs) > 3 or any(a.sample_id == large for a, _ in pairs):
            torch.empty(1 << 60)  # raises as torch does when memory is short
        return original(self, pairs)

    def limited_too(self, items):
        if any(i.sample_id == large and (len(items) > 1 or i.response == "refusal") for i in items):
            torch.empty(1 << 60)
        return original_rows(self, items)

    original_rows = Extractor.rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Extractor, "pair_rows", limited)
        patch.setattr(Extractor, "rows", limited_too)
        with pytest.raises(ResourceError, match=f"1 samples do not fit in memory even alone, first {large}"):
            extract(store, world.options, [epoch], SETTINGS, tell=said.append)
    assert any("did not fit in memory: halved" in s for s in said)
    assert rows_of(store).height == whole[2].height - 1, "rows that did fit were lost"
    counts = extract(store, world.options, [epoch], SETTINGS)
    assert counts["new"] == 1, "the same command fills what was left"
    assert_same_rows(rows_of(store), whole[2])


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is Linux's")
def test_a_real_allocation_failure_is_known_as_one():
    code = (
        "import resource, torch; from gradstore.models.memory import is_out_of_memory\n"
        "resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))\n"
        "try: torch.ones(1 << 33)\n"
        "except Exception as error: print(is_out_of_memory(error), is_out_of_memory(ValueError('no')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "False"], done.stderr
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_samples(world, tmp_path):
    """The whole command, in processes of their own, on 300 and on 3,000 samples; peaks within a tenth.

    Narrow vectors, so that the commits on their way to the disk, of which a short run has fewer, weigh little.
    """
    peaks = []
    for people in (100, 1000):
        questions, uri = tmp_path / f"{people}.jsonl", str(tmp_path / f"store-{people}")
        questions.write_text("".join(json.dumps(f.as_record()) + "\n" for f in lab_people(people)))
        ingest(uri, [questions], preset="qa")
        options = ["--model", world.options.model, "--device", "cpu", "--max-length", "64", "--batch-tokens", "2048"]
        fresh = ["--init-lora", "r=4", "--feature", "sgd", "--dim", "512", "--work", str(tmp_path), "--json"]
        command = [sys.executable, "-m", "gradstore.cli.main", "extract", uri, *options, *fresh]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        assert found["new"] == 2 * 3 * people
        peaks.append(found["peak_mb"])
    assert peaks[1] <= 1.1 * peaks[0], f"{peaks} MB"


def test_a_fresh_lora_takes_plain_gradients_of_b_alone(store, world, tmp_path):
    said: list[str] = []
    spec = "r=4,targets=q_proj,v_proj,seed=3"
    folder = fresh_adapter(store.uri, world.options, spec, "sgd", tmp_path, said.append)
    assert "its B is zero, so every gradient of an A is zero" in said[0]
    assert fresh_adapter(store.uri, world.options, spec, "sgd", tmp_path) == folder
    found = read_checkpoint(folder)
    assert found.moments is None
    counts = extract(store, world.options, [folder], ExtractSettings("sgd", dim=64))
    assert counts["ok"] == counts["new"] > 0
    with pytest.raises(CheckpointError, match="has no optimizer state, which feature adam needs.*--feature sgd"):
        fresh_adapter(store.uri, world.options, spec, "adam", tmp_path)
    for bad in ("targets=q_proj", "r=x", "r=4,depth=2", ""):
        with pytest.raises(GradstoreError, match="expected r=N"):
            fresh_adapter(store.uri, world.options, bad, "sgd", tmp_path)


def test_samples_longer_than_the_models_context_are_set_aside(store, world, epoch, tmp_path):
    """A model with learned positions would fail on them, or read past its table."""
    said: list[str] = []
    extract(store, replace(world.options, max_length=10_000), [epoch], SETTINGS, tell=said.append)
    assert any("this model reads 512 tokens, not 10000" in s for s in said)
    made = store.scan("recipes").filter(pl.col("recipe_id") == store.recipe_ids()[0]).collect()
    assert made["max_length"].to_list() == [512]
    short = GradientStore.create(tmp_path / "short")
    for table in ("samples", "probes", "prompts"):
        short.write(table, store.scan(table).collect().to_arrow())
    counts = extract(short, replace(world.options, max_length=12), [epoch], SETTINGS, tell=said.append)
    assert counts["truncated"] == counts["new"]
    assert any("rows are truncated: stored without a vector, in no mean" in s for s in said)


def test_statuses_of_what_has_no_gradient(world, epoch):
    from gradstore.models.adapters import load_adapter
    from gradstore.models.loading import load_model

    loaded = load_model(world.options.model)
    adapted = load_adapter(loaded.model, epoch)
    extractor = Extractor(loaded, adapted, None, "sgd", SETTINGS.sketch)
    items = [
        Item("a", "answer", Encoded([5, 6, 7], 3, "no-label")),
        Item("b", "answer", Encoded([5, 6, 7, 8], 2, "ok")),
    ]
    assert extractor.rows(items)["status"].to_pylist() == ["no-label", "ok"]
    assert extractor.rows(items[:1])["vector"].to_pylist() == [None]
    assert extractor.rows([]).num_rows == 0
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter.fill_(torch.inf)
    assert extractor.rows(items)["status"].to_pylist() == ["no-label", "nan"], "an infinite loss is not a number"


def test_an_older_store_gets_the_columns_that_came_later(store):
    import lancedb

    lancedb.connect(store.uri).open_table("runs").drop_columns(["plan"])
    row = store.scan("runs").head(1).collect().to_arrow()
    assert "plan" not in row.schema.names
    store.write("runs", row.set_column(0, "run_id", pa.array(["new"])))
    assert "plan" in store.scan("runs").collect().columns


def test_work_that_another_did_in_the_meantime_is_not_done_again(store, world, epoch, monkeypatch):
    """The plan is made before the other extractor's rows are there; each commit looks again."""
    planned = gradient_rows.plan

    def late(*arguments, **named):
        commits = planned(*arguments, **named)
        monkeypatch.undo()
        extract(GradientStore.open(store.uri), replace(world.options, batch_tokens=512), [epoch], SETTINGS)
        return commits

    monkeypatch.setattr("gradstore.pipelines.checkpoint_rows.plan", late)
    assert extract(store, world.options, [epoch], SETTINGS)["new"] == 0
