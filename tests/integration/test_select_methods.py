"""Every method on one small real store: one call each, its numbers against the slow twins, and what export writes."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from gradstore.errors import ProvenanceError, SelectionError, StoreError
from gradstore.methods import METHODS, REFERENCE
from gradstore.models.checkpoints import epoch_folders
from gradstore.pipelines.build import default_extract
from gradstore.pipelines.candidates import StoredVectors
from gradstore.pipelines.export import export
from gradstore.pipelines.extract import extract
from gradstore.pipelines.import_probe import import_probe
from gradstore.pipelines.ingest import ingest
from gradstore.pipelines.probe import ProbeSettings, probe
from gradstore.pipelines.select import Sources, select
from gradstore.pipelines.work import read_samples
from gradstore.selection import Settings
from gradstore.store import GradientStore, query
from tests import reference
from tests import reference_selection as twin

pytestmark = pytest.mark.slow  # a minute and more; every rule has its unit tests beside
CASES = [*((name, False) for name in METHODS), *((name, True) for name in REFERENCE)]
each_case = pytest.mark.parametrize(("method", "released"), CASES, ids=[n + "-released" * r for n, r in CASES])
PROBE = ProbeSettings(max_new_tokens=8)
KNOWN, UNKNOWN = 9, 6


@pytest.fixture(scope="module")
def store(world, tmp_path_factory):
    """A copy of the world's store, with the knowledge after rehearsal, a recipe of plain gradients, and a second sketch
    of the first epoch's."""
    folder = tmp_path_factory.mktemp("methods") / "store"
    shutil.copytree(world.store_uri, folder)
    store = GradientStore.open(folder)
    epochs = epoch_folders(world.folder / "warmup")
    options = replace(world.options, batch_tokens=1024)
    probe(store, options, PROBE, checkpoint=epochs[-1])
    extract(store, options, epochs, default_extract(dim=512, feature="sgd"))
    extract(store, options, epochs, default_extract(dim=512, seed=1))
    return store


@pytest.fixture(scope="module")
def recipes(store) -> dict[tuple[str, int], str]:
    """(feature, sketch seed) → recipe."""
    stored = store.scan("recipes").select("feature", "sketch_seed", "recipe_id").collect()
    return {(feature, seed): recipe for feature, seed, recipe in stored.iter_rows()}


@pytest.fixture
def choose(store, recipes):
    """Select by the Adam recipe; the written rows beside the result."""

    def run(name: str, method: str, *, recipe=("adam", 0), checkpoints=(), **settings):
        asked = Settings(**({"method": method, "known": KNOWN, "unknown": UNKNOWN} | settings))
        found = select(store, name, asked, Sources(recipe=recipes[recipe], checkpoints=checkpoints), replace=True)
        return found, store.scan("selections").filter(pl.col("selection") == name).sort("sample_id").collect()

    return run


def chosen(rows: pl.DataFrame, response: str) -> list[str]:
    return rows.filter(response=response).sort("rank")["sample_id"].to_list()


def exported(store, name: str, folder) -> dict[str, dict]:
    export(store, name, "trl", folder)
    lines = (folder / "trl" / "train.jsonl").read_text().splitlines()
    return {row["sample_id"]: row for row in map(json.loads, lines)}


def stored_vectors(store, recipe: str, checkpoint: str, response: str) -> dict[str, list[float]]:
    rows = store.scan(f"gradients_{recipe}").filter(checkpoint_id=checkpoint, response=response).collect()
    vectors = rows["vector"].to_numpy().astype(np.float64)
    return dict(zip(rows["sample_id"], vectors.tolist(), strict=True))


def rates(store, recipe: str) -> dict[str, float]:
    present = store.scan(f"gradients_{recipe}").select("checkpoint_id").unique().collect()["checkpoint_id"]
    found = store.scan("checkpoints").filter(pl.col("checkpoint_id").is_in(present.to_list())).sort("step").collect()
    return dict(found.select("checkpoint_id", "learning_rate").iter_rows())


def levels(store) -> dict[str, float]:
    probed = store.scan("probes").filter(pl.col("checkpoint_id").is_null()).select("sample_id", "correctness")
    train = read_samples(store, "train")
    return {i: c for i, c in probed.collect().iter_rows() if i in train}


@each_case
def test_every_method_selects_by_one_call_and_can_be_exported(store, recipes, gradstore, tmp_path, method, released):
    arguments = ["--method", method, "--known", KNOWN, "--unknown", UNKNOWN, "--recipe", recipes["adam", 0]]
    flags = [*(["--reference"] if released else []), "--replace", "--json"]
    code, out, err = gradstore("select", store.uri, "--name", "told", *arguments, *flags)
    table = (REFERENCE if released else METHODS)[method]
    if (method, released) == (
        "craft",
        True,
    ):  # told people come first in the file, so nobody unknown is misaligned down
        assert (code, out) == (1, "")
        assert "rule 'released-falling' leaves no candidate on the unknown side (" in err
        return
    assert code == 0, err
    told = json.loads(out)
    assert told["method"] == method + " (reference)" * released
    assert (told["known rule"], told["unknown rule"], told["weights"]) == (table.known, table.unknown, table.weights)
    settings = told["settings"]
    assert (settings["known"], settings["unknown"], settings["seed"]) == (KNOWN, UNKNOWN, 0)
    assert settings["boundary"] == table.boundary

    rows = store.scan("selections").filter(pl.col("selection") == "told").collect()
    assert rows["reason"].null_count() == 0
    assert set(rows["sample_id"]) == set(read_samples(store, "train"))
    taken = rows.filter(pl.col("rank").is_not_null())
    assert told["selected"] == taken.height == told["keep their answer"] + told["refuse"]
    assert dict(rows["reason"].value_counts().iter_rows()) == {r: told[r] for r in rows["reason"].unique()}
    assert err.count("warning: ") == len(told["warnings"])
    if not released and "falling" not in table.unknown:
        answers = KNOWN + UNKNOWN if method == "van" else KNOWN
        assert (told["keep their answer"], told["refuse"]) == (answers, KNOWN + UNKNOWN - answers)
        assert told["warnings"] == []
    if method != "van":
        for response, size in (("answer", " of the known"), ("refusal", "")):
            effective = reference.effective_size(taken.filter(response=response)["weight"].to_list())
            assert told[f"effective sample size{size}"] == pytest.approx(effective, abs=0.006)
    assert (told["temperature"] is not None) == (table.weights == "intent")
    if table.split == "correctness":
        assert (taken["knowledge"] == taken["response"].replace({"answer": "known", "refusal": "unknown"})).all()

    lines = exported(store, "told", tmp_path)
    assert {i: r["weight"] for i, r in lines.items()} == dict(taken.select("sample_id", "weight").iter_rows())
    assert all(p.exists() for p in export(store, "told", "xtuner", tmp_path))


def test_a_bare_call_lists_recipes_that_differ(store):
    with pytest.raises(ProvenanceError, match="3 recipes cannot be compared.*--recipe"):
        select(store, "bare", Settings(known=5, unknown=5))
    select(store, "bare", Settings("cor-rait", known=5, unknown=5))


def test_twice_the_same_and_another_seed_another(choose):
    for method in ("herding", "gradmatch", "less", "stable", "r-tuning-r"):
        first, again = (choose(f"again {n}", method)[1].drop("row_id", "selection", "selection_id") for n in (0, 1))
        assert first.equals(again)
    drawn = [chosen(choose(f"seed {s}", "cor-rait", seed=s)[1], "refusal") for s in (0, 1)]
    assert drawn[0] != drawn[1]


# -- numbers against the twins ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sides(store) -> dict[str, list[str]]:
    """Ids of both sides in the order of seed 0."""
    rows = [{"sample_id": i, "correctness": c} for i, c in levels(store).items()]
    parts = twin.by_correctness(twin.in_hash_order(rows, 0), 0.5, "known")
    return {side: [r["sample_id"] for r in part] for side, part in parts.items()}


def side_by_side(store, recipe: str, response: str) -> dict[str, list[float]]:
    """Both checkpoints' vectors in a row, each times √η: their product is Σ η <u, u>."""
    shares = rates(store, recipe)
    total, joined = sum(shares.values()), {}
    for checkpoint, rate in shares.items():
        for i, v in stored_vectors(store, recipe, checkpoint, response).items():
            scaled = (np.array(v, np.float32) * (rate / total) ** 0.5).astype(np.float16)  # as they are held
            joined[i] = joined.get(i, []) + scaled.astype(np.float64).tolist()
    return joined


@pytest.mark.parametrize("both", [False, True])
def test_herding_on_the_store_equals_the_twin(choose, store, recipes, sides, both):
    recipe = recipes["adam", 0]
    last = list(rates(store, recipe))[-1]
    _, rows = choose("herded", "herding", checkpoints=() if both else (last,))
    for side, response, count in (("known", "answer", KNOWN), ("unknown", "refusal", UNKNOWN)):
        held = side_by_side(store, recipe, response) if both else stored_vectors(store, recipe, last, response)
        picked = twin.herding([held[i] for i in sides[side]], count)
        assert chosen(rows, response) == [sides[side][i] for i in picked]


def test_hard_knowns_on_the_store_equal_the_twin(choose, store, recipes, sides):
    last = list(rates(store, recipes["adam", 0]))[-1]
    _, rows = choose("hard", "hard-known", checkpoints=(last,))
    refusal = stored_vectors(store, recipes["adam", 0], last, "refusal")
    order = twin.hard([refusal[i] for i in sides["known"]], [refusal[i] for i in chosen(rows, "refusal")])
    assert chosen(rows, "answer") == [sides["known"][i] for i in order[:KNOWN]]


def test_two_checkpoints_side_by_side_multiply_to_the_sum_over_checkpoints(store, recipes):
    """Σ_c η_c <u_i^c, u_j^c>, up to the rounding of √η·u to float16, 2⁻¹¹ of each entry; and norms stay 1."""
    recipe = recipes["adam", 0]
    shares = rates(store, recipe)
    total = sum(shares.values())
    assert len(shares) == 2
    ids = sorted(levels(store))
    weights = {c: r / total for c, r in shares.items()}
    vectors = StoredVectors(store, recipe, weights, frozenset(ids))
    for response in ("answer", "refusal"):
        rows = vectors(ids, response).view(np.float16).astype(np.float64)
        assert rows.shape == (len(ids), 2 * 512)
        expected = np.zeros((len(ids), len(ids)))
        for checkpoint, share in weights.items():
            held = stored_vectors(store, recipe, checkpoint, response)
            u = np.array([held[i] for i in ids])
            expected += share * u @ u.T
        np.testing.assert_allclose(rows @ rows.T, expected, atol=2e-3)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=2e-3)
        backwards = vectors(ids[::-1], response).view(np.float16).astype(np.float64)
        assert (backwards[::-1] == rows).all(), "rows came in another order than the ids"
    with pytest.raises(SelectionError, match=r"^1 of 2 samples have no usable answer gradient, the first is nobody"):
        vectors([ids[0], "nobody"], "answer")


@pytest.mark.parametrize("plain", ["adam", "sgd"])
def test_less_on_the_store_equals_the_twin(choose, store, recipes, sides, plain):
    """Train features by the recipe, the target's by plain gradients with the same sketch; subtasks are subjects."""
    recipe = recipes["adam" if plain == "sgd" else "sgd", 0]
    target_recipe = recipes["sgd", 0]
    _, rows = choose("less", "less", recipe=("adam", 0) if plain == "sgd" else ("sgd", 0))
    subject = {i: s["subject"] for i, s in read_samples(store, "train").items()}
    shares = rates(store, recipe)
    train, target = {}, {}
    for c in shares:
        train[c] = {}
        target[c] = {s: [] for s in sorted(set(subject.values()))}
        for side, response in (("known", "answer"), ("unknown", "refusal")):
            features = stored_vectors(store, recipe, c, response)
            gradients = stored_vectors(store, target_recipe, c, response)
            train[c] |= {i: features[i] for i in sides[side]}
            for i in sides[side]:
                target[c][subject[i]].append(gradients[i])
    scores = twin.less_scores(train, target, shares)
    for side, response, count in (("known", "answer", KNOWN), ("unknown", "refusal", UNKNOWN)):
        ranked = sorted(sides[side], key=lambda i: -scores[i])
        assert chosen(rows, response) == ranked[:count]
    for sample, score in rows.filter(pl.col("rank").is_not_null()).select("sample_id", "score").iter_rows():
        assert score == pytest.approx(scores[sample], abs=1e-9)


def test_a_target_may_be_a_condition_or_a_file_of_ids(choose, store, tmp_path):
    ids = [i for i, s in read_samples(store, "train").items() if s["subject"] == "job"]
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    by_sql = choose("by sql", "less", target="subject = 'job'")[1]
    by_file = choose("by file", "less", target=f"@{tmp_path}/ids.txt")[1]
    everything = choose("everything", "less")[1]
    same = by_sql.select("sample_id", "rank", "score").equals(by_file.select("sample_id", "rank", "score"))
    assert same
    assert not by_sql["score"].equals(everything["score"])
    for wrong, message in (
        ("subject = 'x'", "^the target \"subject = 'x'\" names no training sample: loosen the condition"),
        ("nothing at all", "^the target 'nothing at all' is not a condition on samples: "),
        ("@/nowhere", "^the target's ids cannot be read from /nowhere: "),
    ):
        with pytest.raises(SelectionError, match=message):
            choose("wrong", "less", target=wrong)


def test_stability_is_over_checkpoints_and_sketches(choose, store, recipes, sides):
    _, rows = choose("stable", "stable")
    looks = []
    for recipe in sorted(recipes[k] for k in (("adam", 0), ("adam", 1))):
        for checkpoint in rates(store, recipe):
            refusal = stored_vectors(store, recipe, checkpoint, "refusal")
            mean = twin.mean_vector([refusal[i] for i in sides["unknown"]])
            looks.append({i: twin.inner(refusal[i], mean) for i in sides["unknown"]})
    assert len(looks) == 4
    score = {i: -twin.stability({"i_ref_each": [look[i] for look in looks]}) for i in sides["unknown"]}
    assert chosen(rows, "refusal") == sorted(score, key=lambda i: -score[i])[:UNKNOWN]
    for sample, found in rows.filter(response="refusal").select("sample_id", "score").iter_rows():
        assert found == pytest.approx(score[sample], rel=1e-6)


def test_one_look_is_not_enough_for_stability(store, recipes):
    last = list(rates(store, recipes["sgd", 0]))[-1]
    with pytest.raises(
        SelectionError, match="^stability needs I_ref more than once, there is one checkpoint through one"
    ):
        select(
            store,
            "once",
            Settings("stable", known=3, unknown=3),
            Sources(recipe=recipes["sgd", 0], checkpoints=(last,)),
        )


@pytest.fixture(scope="module")
def shuffled(world, tmp_path_factory):
    """The same questions in another order, probed before and after rehearsal; no gradients."""
    folder = tmp_path_factory.mktemp("shuffled")
    lines = (world.folder / "train.jsonl").read_text().splitlines(keepends=True)
    order = np.random.default_rng(3).permutation(len(lines))
    (folder / "train.jsonl").write_text("".join(lines[i] for i in order))
    ingest(folder / "store", [folder / "train.jsonl"], preset="qa")
    store = GradientStore.open(folder / "store")
    probe(store, world.options, PROBE)
    probe(store, world.options, PROBE, checkpoint=epoch_folders(world.folder / "warmup")[0])
    return store


def test_craft_goes_by_the_flow_between_the_two_probes(shuffled):
    probed = shuffled.scan("probes").select("sample_id", "checkpoint_id", "correctness", "certainty").collect()
    after = dict(probed.filter(pl.col("checkpoint_id").is_not_null()).select("sample_id", "correctness").iter_rows())
    ordinal = dict(shuffled.scan("samples").select("sample_id", "ordinal").collect().iter_rows())
    rows = [
        {"sample_id": i, "correctness": c, "certainty": s, "flow": after[i] - c, "choice": False, "ordinal": ordinal[i]}
        for i, _, c, s in probed.filter(pl.col("checkpoint_id").is_null()).iter_rows()
    ]

    def choose(**settings) -> tuple[list[str], list[str], dict[str, str]]:
        select(shuffled, "craft", Settings("craft", known=KNOWN, unknown=UNKNOWN, **settings), replace=True)
        found = shuffled.scan("selections").collect()
        reasons = dict(found.select("sample_id", "reason").iter_rows())
        return chosen(found, "answer"), chosen(found, "refusal"), reasons

    known, unknown, reasons = choose()
    assert (known, unknown) == twin.craft(twin.in_hash_order(rows, 0), 0.5, KNOWN, UNKNOWN)
    for r in rows:
        if r["correctness"] < 0.5 and not twin.fell(r):
            assert reasons[r["sample_id"]] == "knowledge-did-not-fall"
    # As released: the flow of open questions is misaligned, and ties with the last place come too.
    in_file = sorted(rows, key=lambda r: r["ordinal"])
    shifted = twin.misaligned_flow([r["correctness"] for r in in_file], [after[r["sample_id"]] for r in in_file])
    in_file = [r | {"flow": f} for r, f in zip(in_file, shifted, strict=True)]
    sure = {r["sample_id"]: r["certainty"] for r in in_file if r["correctness"] >= 0.5}
    unsure = {r["sample_id"]: r["certainty"] for r in in_file if r["correctness"] < 0.5 and twin.keeps_flow(r)}
    assert unsure
    known, unknown, _ = choose(reference=True)
    assert known == twin.keep_all(sure, KNOWN, largest=True)
    assert unknown == twin.keep_all(unsure, UNKNOWN, largest=False)


def test_options_are_renormalised_as_the_released_code_does(world, tmp_path):
    """The same raw probabilities, the gold option first or last: the released code calls the last unknown."""
    letters, raw = "ABCD", [0.05, 0.10, 0.10, 0.30]
    lines = [{"question": f"q{i}", "choices": list("wxyz"), "answer": letter} for i, letter in enumerate("DDAAB")]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ingest(tmp_path / "store", [tmp_path / "q.jsonl"], preset="qa")
    store = GradientStore.open(tmp_path / "store")
    rows = store.scan("samples").select("sample_id", "question", "answer").collect().sort("question")
    ids = rows["sample_id"].to_list()
    given = {"D": raw, "A": raw[::-1], "B": [0.4, 0.1, 0.2, 0.2]}
    probed = [{"sample_id": i, "choice_probs": given[letter]} for i, letter in zip(ids, rows["answer"], strict=True)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in probed))
    import_probe(store, tmp_path / "p.jsonl", world.options)

    def knowledge(**settings) -> list[str]:
        select(store, "choices", Settings(known=1, unknown=1, **settings), replace=True)
        return (
            store.scan("selections")
            .collect()
            .sort(pl.col("sample_id").replace_strict(ids, range(5)))["knowledge"]
            .to_list()
        )

    expected = [
        "known" if reference.normalised_one_after_another(given[x])[letters.index(x)] >= 0.5 else "unknown"
        for x in "DDAAB"
    ]
    assert expected == ["unknown"] * 2 + ["known"] * 2 + ["unknown"]
    for method in ("cor-rait", "corcer-rait", "craft-no-flow"):
        assert knowledge(method=method, reference=True) == expected
        assert knowledge(method=method) == ["known"] * 4 + ["unknown"]


def test_craft_without_a_probe_after_rehearsal_says_how_to_make_one(world):
    with pytest.raises(StoreError, match="^method craft needs the knowledge after rehearsal: run `gradstore probe"):
        select(world.store, "no flow", Settings("craft", known=3, unknown=3))


def test_quotas_on_the_store(choose, store):
    subject = {i: s["subject"] for i, s in read_samples(store, "train").items()}
    _, rows = choose("even", "herding", quota="subject")
    assert set(Counter(subject[i] for i in chosen(rows, "answer")).values()) <= {2, 3, 4}
    _, rows = choose("clustered", "cor-rait", quota="clusters:3")
    assert len(chosen(rows, "answer")) == KNOWN


# -- known not to be so: strict, so that a mend shows ----------------------------------------------------------------


def test_r_tuning_r_says_nothing_but_its_sixteen_refusals(choose):
    _, rows = choose("sixteen", "r-tuning-r", known=1, unknown=44)
    assert "I am unsure." not in set(rows.filter(response="refusal")["target_text"])


def test_the_probe_after_rehearsal_can_be_named(shuffled, world, tmp_path):
    shutil.copytree(shuffled.uri, tmp_path / "store")
    store = GradientStore.open(tmp_path / "store")
    probe(store, world.options, PROBE, checkpoint=epoch_folders(world.folder / "warmup")[1])
    rehearsed = store.scan("probes").select("checkpoint_id").unique().collect()["checkpoint_id"].drop_nulls().sort()
    settings = Settings("craft", known=3, unknown=1)
    with pytest.raises(
        ProvenanceError, match="2 probes after rehearsal fit, expected one: .*name one with --checkpoint"
    ):
        select(store, "either", settings)
    select(store, "named", settings, Sources(checkpoints=(rehearsed[0],)))


@pytest.mark.parametrize("method", ["stable", "less"])
def test_a_sibling_recipe_of_one_epoch_alone_is_no_obstacle(world, tmp_path, method):
    shutil.copytree(world.store_uri, tmp_path / "store")
    store = GradientStore.open(tmp_path / "store")
    first = store.recipe_ids()[0]
    other = {"stable": {"seed": 2}, "less": {"feature": "sgd"}}[method]
    options = replace(world.options, batch_tokens=1024)
    extract(store, options, epoch_folders(world.folder / "warmup")[-1:], default_extract(dim=512, **other))
    select(store, "half", Settings(method, known=3, unknown=3), Sources(recipe=first))
    chosen = query(store, "SELECT COUNT(*) AS n FROM selections WHERE selection = 'half' AND rank IS NOT NULL")
    assert chosen.collect().item() == 6, "the recipe of one epoch was read instead, or rows went missing"


# -- what is exported ------------------------------------------------------------------------------------------


ASKED = "Are you sure you accurately answered the question based on your internal knowledge? I am "


@pytest.mark.parametrize("method", ["r-tuning", "r-tuning-u"])
def test_r_tuning_keeps_the_answer_and_says_whether_it_is_sure(choose, store, tmp_path, method):
    _, rows = choose(method, method)
    train, lines = read_samples(store, "train"), exported(store, method, tmp_path)
    for side, word in (("answer", "sure."), ("refusal", "unsure.")):
        for i in chosen(rows, side):
            assert lines[i]["completion"] == f" {train[i]['answer']}. {ASKED}{word}"
            assert train[i]["question"] in lines[i]["prompt"]


def test_r_tuning_u_asks_for_no_gradients_and_splits_by_entropy(choose, store):
    _, rows = choose("u", "r-tuning-u")
    probed = store.scan("probes").filter(pl.col("checkpoint_id").is_null()).select("sample_id", "entropy").collect()
    train = read_samples(store, "train")
    entropies = [{"sample_id": i, "entropy": e} for i, e in probed.iter_rows() if i in train]
    parts = twin.by_entropy(twin.in_hash_order(entropies, 0))
    for side in ("known", "unknown"):
        assert set(rows.filter(knowledge=side)["sample_id"]) == {r["sample_id"] for r in parts[side]}


def test_r_tuning_r_has_one_of_its_sixteen_refusals(choose, store, tmp_path):
    _, rows = choose("r", "r-tuning-r", unknown=30)
    lines, train = exported(store, "r", tmp_path), read_samples(store, "train")
    said = Counter(lines[i]["completion"] for i in chosen(rows, "refusal"))
    assert len(said) > 5, "always the same"
    assert all(lines[i]["completion"] == " " + train[i]["answer"] for i in chosen(rows, "answer"))
    _, pooled = choose("pooled", "grait", refusals="pool")
    assert len(set(pooled.filter(response="refusal")["target_text"])) > 1
    _, one = choose("one", "r-tuning-r", refusals="one")
    assert set(one.filter(response="refusal")["target_text"]) == {"I don't know."}


def test_van_tuning_refuses_nothing(choose, store, tmp_path):
    choose("van", "van")
    train, lines = read_samples(store, "train"), exported(store, "van", tmp_path)
    assert len(lines) == KNOWN + UNKNOWN
    assert all(row["completion"] == " " + train[i]["answer"] for i, row in lines.items())


def test_weights_of_a_selection_are_those_of_its_stored_vectors(choose, store, recipes, sides):
    recipe = recipes["adam", 0]
    last = list(rates(store, recipe))[-1]
    _, rows = choose("w", "craig", checkpoints=(last,))
    for side, response in (("known", "answer"), ("unknown", "refusal")):
        held = stored_vectors(store, recipe, last, response)
        picked = chosen(rows, response)
        sizes = twin.cluster_sizes([held[i] for i in sides[side]], [held[i] for i in picked])
        found = dict(rows.select("sample_id", "weight").iter_rows())
        np.testing.assert_allclose([found[i] for i in picked], twin.scaled(sizes, len(picked)), rtol=1e-9)
    _, rows = choose("g", "grait", temperature=0.01, checkpoints=(last,))
    unknown = rows.filter(response="refusal").sort("rank")
    expected = reference.grait_weights(unknown["i_ref"].to_list(), unknown["i_over"].to_list(), 0.01, UNKNOWN, 1)
    np.testing.assert_allclose(unknown["weight"], expected, rtol=1e-9)


# -- errors on the command line --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "best"], "no method 'best': there are grait, cor-rait,"),
        (["--method", "less", "--reference"], "no reference mode of method 'less': there are grait,"),
        (["--known-rule", "best"], "no rule 'best': there are random, top-correct,"),
        (["--method", "cor-rait", "--temperature", "0.1"], "weights 'uniform' have no temperature: leave out"),
        (["--quota", "topic"], "quota 'topic': expected subject, or clusters:N with N ≥ 2"),
        (["--cap", "0.5"], "a cap of 0.5 on 6 weights holds at most 3, their total is 6: raise --cap or lower"),
        (["--threshold", "0", "--boundary", "known"], "no unknown sample with a usable gradient at threshold 0.0"),
        (["--method", "cor-rait", "--threshold", "0"], "no usable candidate on the unknown side at threshold 0.0"),
        (["--known", "1000", "--strict"], "1000 known samples were asked for"),
    ],
)
def test_what_cannot_be_selected_is_one_line_and_writes_nothing(store, recipes, gradstore, arguments, message):
    before = store.row_counts()
    counts = ["--known", KNOWN, "--unknown", UNKNOWN, "--recipe", recipes["adam", 0]]
    code, out, err = gradstore("select", store.uri, "--name", "never", *counts, *arguments)
    assert (code, out) == (1, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert store.row_counts() == before


def test_help_lists_every_method(gradstore):
    code, out, _ = gradstore("select", "--help")
    assert code == 0
    assert all(f"\n  {name} " in out for name in METHODS)
