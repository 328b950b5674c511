"""Every method and every rule chooses what its slow twin chooses: on smooth, tied, copied, equal and tiny inputs."""

from functools import cache

import numpy as np
import pytest

from gradstore.errors import SelectionError
from gradstore.methods import METHODS, RULES
from gradstore.selection import Settings, method_of, select
from gradstore.selection.facility import locate, nearest
from gradstore.selection.herding import herd
from gradstore.selection.matching import RIDGE, STEPS, nonnegative, pursue
from gradstore.selection.pool import mean_of, widened
from gradstore.selection.quotas import clusters
from tests import reference_selection as twin
from tests.reference_selection import World, in_hash_order, unit_rows
from tests.unit.test_selection import run, sides, usable

cached = cache(twin.world)
PAPER_RULES = [n for n in RULES if not RULES[n].startswith("released")]
# Twenty sweeps of coordinate descent leave the fit of this many weights, and so the residual's products, off by less
# than the ridge: the fit is blurred by as much anyway.
TOLERANCE = RIDGE


def tiny(known: int, unknown: int, seed: int = 0) -> World:
    given = cached("smooth", known + unknown, seed)
    return given.with_columns(correctness=[1.0] * known + [0.0] * unknown, flow=[-0.1] * (known + unknown))


WORLDS = {
    "smooth": cached("smooth"),
    "ties": cached("ties"),
    "copies": cached("copies"),
    "equal": cached("equal", 34),
    "one a side": tiny(1, 1),
    "two a side": tiny(2, 2),
    "one and three": tiny(1, 3),
}


def ranking(rule: str, given: World, rows: list[dict], side: str, penalty: float | None, others: list, chosen: list):
    """Ids that ``rule`` ranks, best first, by the twins; ``rows`` in hash order."""
    if rule in twin.RANKINGS:
        return twin.RANKINGS[rule](rows, 1.0 if penalty is None else penalty)
    response = "answer" if side == "known" else "refusal"
    ids, held = [r["sample_id"] for r in rows], given.floats(response)
    vectors = [held[i] for i in ids]
    if rule == "hard":
        refusals = given.floats("refusal")
        order = twin.hard([refusals[i] for i in ids], [refusals[i] for i in chosen])
    elif rule == "herding":
        target = twin.mean_vector(vectors)
        if penalty and others:
            away = twin.mean_vector([held[i] for i in others])
            target = [t - penalty * a for t, a in zip(target, away, strict=True)]
        order = twin.herding(vectors, 30, target)
    elif rule == "facility":
        order = twin.facility(vectors, 30)[0]
    else:
        order = twin.matching(vectors, 30, RIDGE)
    return [ids[i] for i in order]


def expected(given: World, settings: Settings) -> tuple[list[str], list[str]]:
    method = method_of(settings)
    rows = in_hash_order(usable(given), settings.seed)
    parts = {
        "correctness": lambda: twin.by_correctness(rows, settings.threshold, method.boundary),
        "entropy": lambda: twin.by_entropy(rows),
        "blind": lambda: {"known": rows, "unknown": rows},
    }[method.split]()
    picked: dict[str, list[str]] = {}
    order = ("known", "unknown") if method.split == "blind" else ("unknown", "known")
    for side in order:
        rule, count = getattr(method, side), getattr(settings, side)
        before = next(iter(picked.values()), [])
        mine = [r for r in parts[side] if method.split != "blind" or r["sample_id"] not in before]
        other = [r["sample_id"] for r in parts["known" if side == "unknown" else "unknown"]]

        def rank(some: list, rule=rule, side=side, other=other, before=before) -> list[str]:
            return ranking(rule, given, some, side, settings.penalty, other, before)

        picked[side] = strata(given, mine, rank, side, settings.quota)[:count] if settings.quota else rank(mine)[:count]
    return picked["known"], picked["unknown"]


def strata(given: World, rows: list[dict], rank, side: str, quota: str) -> list[str]:
    if quota == "subject":
        labels = [r["subject"] or "" for r in rows]
    else:
        held = given.floats("answer" if side == "known" else "refusal")
        labels = [str(c) for c in twin.clusters([held[r["sample_id"]] for r in rows], int(quota.split(":")[1]))]
    names = sorted(set(labels))
    of = {name: [r for r, label in zip(rows, labels, strict=True) if label == name] for name in names}
    return twin.merged({n: rank(of[n]) for n in names}, {n: len(of[n]) for n in names}, len(rows))


@pytest.mark.parametrize("kind", WORLDS)
@pytest.mark.parametrize("method", [m for m in METHODS if m != "gradmatch"])
def test_a_method_chooses_what_its_twin_chooses(method, kind):
    given = WORLDS[kind]
    for known, unknown, seed in ((9, 7, 0), (1, 2, 1), (20, 1, 2)):
        if METHODS[method].split == "blind":
            known = min(known, given.frame.height // 2)
        settings = Settings(method, known, unknown, seed=seed, weights="uniform")
        assert sides(select(given.frame, settings, given.vectors)) == expected(given, settings)


@pytest.mark.parametrize("quota", ["subject", "clusters:2", "clusters:5"])
@pytest.mark.parametrize(
    "method", ["grait", "craft", "herding", "facility", "hard-known", "stable", "r-tuning-u", "van"]
)
@pytest.mark.parametrize("kind", ["smooth", "ties", "copies", "equal", "two a side"])
def test_quotas_merge_what_the_rule_ranks_within_each_stratum(method, quota, kind):
    known = 2 if kind == "two a side" else 11
    settings = Settings(method, known, 6, quota=quota, weights="uniform")
    given = WORLDS[kind]
    assert sides(select(given.frame, settings, given.vectors)) == expected(given, settings)


HEAR_PENALTY = ("herding", "i-ref-minus-i-over")


@pytest.mark.parametrize(
    ("rule", "penalty"),
    [
        (rule, penalty)
        for rule in PAPER_RULES
        if rule not in ("matching", "hard")
        for penalty in ((None, 0.0, 2.5) if rule in HEAR_PENALTY else (None,))
    ],
)
@pytest.mark.parametrize("kind", ["smooth", "ties"])
def test_a_rule_ranks_either_side_as_its_twin(rule, penalty, kind):
    settings = Settings("grait", 8, 8, known_rule=rule, unknown_rule=rule, penalty=penalty, weights="uniform", seed=3)
    given = WORLDS[kind]
    assert sides(select(given.frame, settings, given.vectors)) == expected(given, settings)


@pytest.mark.parametrize("kind", ["smooth", "ties"])
@pytest.mark.parametrize(
    ("rule", "key"),
    [
        ("stable", twin.stability),
        ("i-ref", twin.down("i_ref")),
        ("i-ref-minus-i-over", twin.influence_gap(0.3)),
        ("target", twin.down("target")),
        ("least-certain", twin.up("certainty")),
        ("most-certain", twin.down("certainty")),
        ("top-correct", twin.down("correctness")),
    ],
)
def test_the_score_that_is_kept_is_what_was_ranked_by(rule, key, kind):
    heard = {"penalty": 0.3} if rule in HEAR_PENALTY else {}
    found = run(WORLDS[kind], unknown_rule=rule, weights="uniform", **heard).rows
    by_id = {r["sample_id"]: r for r in usable(WORLDS[kind])}
    for sample, score in found.filter(side="unknown").select("sample_id", "score").iter_rows():
        assert score == pytest.approx(-key(by_id[sample]), rel=1e-12), "larger is better, whatever is ranked"


@pytest.mark.parametrize("threshold", [0.3, 0.7])
@pytest.mark.parametrize("kind", ["smooth", "ties"])
def test_craft_is_algorithm_1_and_corcer_the_same_without_flow(threshold, kind):
    given = WORLDS[kind]
    rows = in_hash_order(usable(given), 0)
    for r in rows:
        r["correctness"] = round(r["correctness"], 6) if kind == "ties" else r["correctness"]  # float32 0.3 is not 0.3
    for method, algorithm in (("craft", twin.craft), ("corcer-rait", twin.corcer), ("craft-no-flow", twin.corcer)):
        found = sides(run(given, method=method, threshold=threshold, known=12, unknown=5))
        assert found == algorithm(rows, threshold, 12, 5)


def test_the_entropy_split_needs_no_label_and_leaves_out_who_has_no_entropy():
    entropies = [0.1, None, 0.3, 0.2, 0.9, 0.5, 0.4, 0.6]
    given = cached("smooth", 8).with_columns(entropy=entropies, correctness=[None] * 8)
    found = run(given, method="r-tuning-u", known=4, unknown=3)
    known, unknown = sides(found)
    assert (set(known), set(unknown)) == ({"id000", "id003", "id002", "id006"}, {"id005", "id007", "id004"})
    assert found.rows["knowledge"][1] is None
    assert found.warnings == []
    with pytest.raises(SelectionError, match="no probe has an entropy; probe more samples"):
        run(given.with_columns(entropy=[None] * 8), method="r-tuning-u")


# -- the greedy rules on bare rows -----------------------------------------------------------------------------

SHAPES = [("smooth", 33), ("ties", 40), ("copies", 34), ("equal", 33), ("smooth", 1), ("smooth", 2), ("equal", 3)]


def bare(kind: str, n: int, seed: int, dim: int = 12) -> tuple[np.ndarray, list[list[float]]]:
    distinct = {"smooth": n, "ties": max(1, 4 * n // 5), "copies": 5, "equal": 1}[kind]
    rows = unit_rows(n, dim, distinct, seed)
    return rows, widened(rows).tolist()


@pytest.mark.parametrize(("kind", "n"), SHAPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_herding_is_the_explicit_walk_of_w(kind, n, seed):
    rows, floats = bare(kind, n, seed)
    target = np.random.default_rng(seed).normal(size=12)
    for mu in (mean_of(rows), target):
        picked, scores = herd(rows, mu, n + 5)
        assert picked == twin.herding(floats, n + 5, mu.tolist())
        walked = list(mu)
        for t, (i, score) in enumerate(zip(picked, scores, strict=True), start=1):
            assert score == pytest.approx(twin.inner(walked, floats[i]) / t, abs=1e-12)
            walked = [a + m - x for a, m, x in zip(walked, mu, floats[i], strict=True)]


def test_herding_comes_nearer_to_the_mean_than_a_random_choice():
    rows, _ = bare("smooth", 200, 0, dim=32)
    wide, mu = widened(rows), mean_of(rows)
    herded = np.linalg.norm(wide[herd(rows, mu, 20)[0]].mean(axis=0) - mu)
    draws = [np.random.default_rng(s).choice(200, 20, replace=False) for s in range(50)]
    assert herded < min(np.linalg.norm(wide[d].mean(axis=0) - mu) for d in draws)


@pytest.mark.parametrize(("kind", "n"), SHAPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_facility_location_is_plain_greedy_over_all_pairs(kind, n, seed):
    rows, floats = bare(kind, n, seed)
    picked, gains = locate(rows, n + 5)
    slow, slow_gains = twin.facility(floats, n + 5)
    distinct = len({tuple(x) for x in floats})
    assert picked[:distinct] == slow[:distinct]
    np.testing.assert_allclose(gains, slow_gains, atol=1e-9)
    assert sum(gains) == pytest.approx(twin.facility_value(floats, picked))
    assert sorted(picked) == list(range(n))


@pytest.mark.parametrize(("kind", "n"), SHAPES)
@pytest.mark.parametrize("k", [1, 2, 7])
def test_a_neighbourhood_is_counted_once_for_each_row(kind, n, k):
    rows, floats = bare(kind, n, 4)
    chosen = np.random.default_rng(k).permutation(n)[:k]
    counts = nearest(rows, rows[chosen])
    assert counts.tolist() == twin.cluster_sizes(floats, [floats[i] for i in chosen])
    assert counts.sum() == n


@pytest.mark.parametrize(("kind", "n"), SHAPES)
@pytest.mark.parametrize("dim", [12, 40])
def test_matching_pursuit_picks_by_the_residual_of_the_best_fit(kind, n, dim):
    """Within the tolerance, since the fast fit stops after its sweeps; the first of copies; and the scores are so."""
    rows, floats = bare(kind, n, 5, dim)
    mu = twin.mean_vector(floats)
    picked, scores = pursue(rows, mean_of(rows), 20)
    assert len(picked) == min(n, 20) == len(set(picked))
    for t, (best, score) in enumerate(zip(picked, scores, strict=True)):
        products = twin.matching_scores(floats, picked[:t], mu, RIDGE)
        open_ = [i for i in range(n) if i not in picked[:t]]
        assert products[best] >= max(products[i] for i in open_) - TOLERANCE
        assert score == pytest.approx(products[best], abs=TOLERANCE)
        assert not [i for i in open_ if i < best and floats[i] == floats[best]], "a later copy came first"
    if kind == "smooth" and dim == 40:  # far more dimensions than picks: no near ties
        assert picked == twin.matching(floats, 20, RIDGE)


@pytest.mark.parametrize(("kind", "n"), SHAPES)
def test_the_weights_of_matching_pursuit_reach_the_best_fit(kind, n):
    _, floats = bare(kind, n, 6)
    mu, wide = twin.mean_vector(floats), np.array(floats)
    picked = twin.matching(floats, 12, RIDGE)
    weights = np.zeros(0)
    for t in range(1, len(picked) + 1):
        some = wide[picked[:t]]
        weights = nonnegative(some @ some.T, some @ np.array(mu), np.append(weights, 0.0), STEPS)
        assert (weights >= 0).all()
        best = twin.nonnegative(some.tolist(), mu, RIDGE)
        errors = [twin.matching_error(some.tolist(), list(w), mu, RIDGE) for w in (weights, best)]
        assert errors[1] - 1e-12 <= errors[0] <= errors[1] + TOLERANCE


@pytest.mark.parametrize("seed", range(6))
def test_weights_that_want_to_be_negative_are_zero(seed):
    """Rows in all directions, none picked by a residual: the constraint binds, and the sweeps come to the optimum."""
    rng = np.random.default_rng(seed)
    rows, target, start = rng.normal(size=(8, 5)), rng.normal(size=5), rng.random(8)
    best = twin.nonnegative(rows.tolist(), target.tolist(), RIDGE)
    assert 0 in best
    found = nonnegative(rows @ rows.T, rows @ target, start, 20_000)
    errors = [twin.matching_error(rows.tolist(), list(w), target.tolist(), RIDGE) for w in (found, best)]
    assert errors[0] == pytest.approx(errors[1], abs=1e-9)
    assert set(np.flatnonzero(found)) == set(np.flatnonzero(best))
    assert (nonnegative(rows @ rows.T, rows @ target, start, 1) >= 0).all()


@pytest.mark.parametrize(("kind", "n"), SHAPES)
@pytest.mark.parametrize("count", [2, 3, 6])
def test_clusters_are_spherical_k_means_from_the_farthest_first(kind, n, count):
    for seed in range(3):
        rows, floats = bare(kind, n, seed)
        labels = clusters(rows, count)
        assert labels.tolist() == twin.clusters(floats, count)
        assert set(labels) <= set(range(min(count, n)))


def test_clusters_find_groups_that_are_there():
    rng = np.random.default_rng(0)
    centres = np.eye(4, 24)
    truth = rng.integers(0, 4, 80)
    noisy = centres[truth] + rng.normal(size=(80, 24)) * 0.05
    rows = (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float16).view(np.uint16)
    labels = clusters(rows, 4)
    assert len({(a, b) for a, b in zip(truth, labels, strict=True)}) == 4


@pytest.mark.parametrize("sizes", [{"a": 5, "b": 3, "c": 1}, {"a": 4, "b": 4}, {"": 1, "x": 7}])
def test_dhondt_gives_each_stratum_its_share(sizes):
    given = cached("smooth", 2 * sum(sizes.values()))
    subjects = [name or None for name, size in sizes.items() for _ in range(size)] * 2
    half = sum(sizes.values())
    given = given.with_columns(subject=subjects, correctness=[1.0] * half + [0.0] * half)
    known, unknown = sides(run(given, quota="subject", known=half, unknown=half))
    subject = dict(zip(given.frame["sample_id"], subjects, strict=True))
    for ids in (known, unknown):
        for k in range(1, half + 1):
            counts = {name: sum((subject[i] or "") == name for i in ids[:k]) for name in sizes}
            assert all(counts[name] >= int(k * size / half) for name, size in sizes.items()), "below its lower quota"
