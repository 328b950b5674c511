"""A selection depends on what the candidates are, not on their order, and says why for each of them."""

from functools import cache
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from gradstore.errors import SelectionError
from gradstore.identity import seeded_order
from gradstore.methods import METHODS, REFERENCE, RULES, WEIGHTS
from gradstore.selection import RULES as FUNCTIONS
from gradstore.selection import Selection, Settings, method_of, needs_of, select
from tests import reference
from tests.reference_selection import World, in_hash_order, world

CASES = [*((name, False) for name in METHODS), *((name, True) for name in REFERENCE)]
NAMES = [name + "-released" * released for name, released in CASES]
each_case = pytest.mark.parametrize(("method", "released"), CASES, ids=NAMES)
QUOTAS = [None, "subject", "clusters:3"]
OWN_REASONS = {"knowledge-did-not-fall", "no-flow"}
BLIND = [name for name, m in METHODS.items() if m.split == "blind"]
OWN_NUMBER = [(name, True) for name in ("grait", "cor-rait", "r-tuning-u")]  # those of the released code

cached = cache(world)


def run(given: World | None = None, **settings) -> Selection:
    given = cached() if given is None else given
    return select(given.frame, Settings(**({"known": 8, "unknown": 8} | settings)), given.vectors)


def sides(found: Selection) -> tuple[list[str], list[str]]:
    """Ids of both sides, best first."""
    chosen = found.rows.filter(pl.col("rank").is_not_null()).sort("rank")
    return tuple(chosen.filter(side=side)["sample_id"].to_list() for side in ("known", "unknown"))


def usable(given: World) -> list[dict]:
    return given.frame.filter(pl.col("problem").is_null()).to_dicts()


def test_every_rule_and_weight_that_is_listed_exists_and_every_method_uses_listed_ones():
    assert set(RULES) == set(FUNCTIONS)
    for method in (*METHODS.values(), *REFERENCE.values()):
        assert {method.known, method.unknown} <= set(RULES)
        assert method.weights in WEIGHTS
    assert set(REFERENCE) <= set(METHODS), "a released method without the one of its paper"


def test_grait_equals_the_twin_that_sorts_tuples():
    for seed in range(5):
        given = cached("smooth", seed=seed)
        twin = reference.grait_selection(given.frame.to_dicts(), 0.5, 9, 7, seed)
        assert sides(run(given, known=9, unknown=7, seed=seed)) == twin


@pytest.mark.parametrize("quota", QUOTAS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("side", ["known", "unknown"])
def test_a_selection_of_k_is_a_prefix_of_one_of_k_plus_1(method, side, quota):
    which = ("known", "unknown").index(side)
    given = cached("ties", 40)
    found = [sides(run(given, method=method, quota=quota, **{side: k})) for k in range(1, 9)]
    for k, (short, long) in enumerate(pairwise(f[which] for f in found), start=1):
        assert len(short) == min(k, len(long))
        assert long[: len(short)] == short, f"asking for {k + 1} instead of {k} changed the first {k}"


@each_case
@pytest.mark.parametrize("quota", QUOTAS)
@pytest.mark.parametrize("kind", ["ties", "copies", "equal"])
def test_the_order_of_rows_does_not_matter(method, released, quota, kind):
    quota = None if released else quota
    given = cached(kind)
    found, turned = (run(g, method=method, reference=released, quota=quota) for g in (given, given.reordered()))
    assert found.rows.equals(turned.rows), "ties went by the order of rows"
    for side in ("known", "unknown"):
        assert getattr(found, side).weights.tolist() == getattr(turned, side).weights.tolist()
    assert found.warnings == turned.warnings


@pytest.mark.parametrize("seed", [0, 1])
def test_ties_go_by_certainty_then_by_the_seeded_hash(seed):
    half = {"correctness": [1.0] * 6, "certainty": [0.5, 1, 1, 0.5, 1, 0.5], "problem": [None] * 6}
    known = cached("smooth", 6).with_columns(**half).frame
    unknown = known.with_columns(pl.col("sample_id") + "u", correctness=pl.lit(0, pl.Float32), i_ref=pl.lit(0.1))
    both = World(pl.concat([known, unknown]), {})
    ranked_known, ranked_unknown = sides(run(both, known=6, unknown=6, seed=seed))

    def by_hash(*ids: str) -> list[str]:
        return sorted(ids, key=lambda i: seeded_order(seed, i))

    assert ranked_known == by_hash("id001", "id002", "id004") + by_hash("id000", "id003", "id005")
    assert ranked_unknown == by_hash("id000u", "id003u", "id005u") + by_hash("id001u", "id002u", "id004u")


@pytest.mark.parametrize("method", [n for n, m in METHODS.items() if m.known not in ("random",)])
def test_where_all_are_equal_every_rule_goes_by_the_seeded_hash(method):
    given = cached("equal", 34)
    for seed in (0, 1):
        known, unknown = sides(run(given, method=method, seed=seed, known=12, unknown=12))
        rows = in_hash_order(usable(given), seed)
        assert known == [r["sample_id"] for r in rows if r["correctness"] == 1][:12]
        assert unknown == [r["sample_id"] for r in rows if r["correctness"] == 0][:12]


@pytest.mark.parametrize("method", ["cor-rait", "random", "van", "r-tuning", "r-tuning-r", "r-tuning-u"])
def test_another_seed_draws_others(method):
    drawn = [sides(run(method=method, seed=seed)) for seed in (0, 1)]
    assert set(drawn[0][0]) != set(drawn[1][0])
    assert set(drawn[0][1]) != set(drawn[1][1])


@pytest.mark.parametrize("threshold", [0.5, 0.3, 0.7])
@pytest.mark.parametrize(("boundary", "side"), [("known", "known"), ("unknown", "unknown"), ("drop", None)])
@pytest.mark.parametrize("dtype", [pl.Float32, pl.Float64])
def test_correctness_equal_to_the_threshold_goes_where_boundary_says(threshold, boundary, side, dtype):
    levels = pl.Series([0.0, threshold, 1.0], dtype=dtype)
    given = cached("smooth", 3).with_columns(correctness=levels)
    found = run(given, threshold=threshold, boundary=boundary, known=1, unknown=1).rows
    assert found["knowledge"].to_list() == ["unknown", side, "known"], "float32 0.3 is not float64 0.3"
    if boundary == "drop":
        assert found["reason"].to_list() == ["selected", "at-threshold", "selected"]


@pytest.mark.parametrize(("released", "side"), [(False, "known"), (True, None)])
def test_the_released_grait_drops_what_is_at_the_threshold(released, side):
    given = cached("smooth", 9).with_columns(correctness=[0, 0, 0, 0, 0.5, 1, 1, 1, 1])
    found = run(given, reference=released, known=2, unknown=1).rows
    assert found["knowledge"][4] == side
    kept = run(given, reference=True, boundary="unknown", known=2, unknown=1).rows
    assert kept["knowledge"][4] == "unknown", "a boundary that is asked for is not the method's"


@each_case
@pytest.mark.parametrize("boundary", ["known", "drop"])
@pytest.mark.parametrize("quota", QUOTAS)
def test_every_candidate_has_a_reason_and_none_with_a_problem_is_selected(method, released, boundary, quota):
    given = cached()
    found = run(given, method=method, boundary=boundary, reference=released, quota=None if released else quota).rows
    assert found["sample_id"].to_list() == given.frame["sample_id"].to_list()
    assert found["reason"].null_count() == 0
    problems = dict(given.frame.filter(pl.col("problem").is_not_null()).select("sample_id", "problem").iter_rows())
    assert len(problems) == 6
    split = (REFERENCE if released else METHODS)[method].split
    for row in found.iter_rows(named=True):
        chosen = row["reason"] == "selected"
        assert all((row[c] is not None) == chosen for c in ("rank", "weight", "response", "side"))
        if row["sample_id"] in problems:
            assert row["reason"] == problems[row["sample_id"]]
        elif not chosen:
            at = split != "entropy" and boundary == "drop" and abs(row["correctness"] - 0.5) < 1e-6
            own = row["reason"] in OWN_REASONS and "falling" in (REFERENCE if released else METHODS)[method].unknown
            assert row["reason"] == ("at-threshold" if at else "outranked") or (own and row["correctness"] < 0.5)


@each_case
def test_the_response_is_the_answer_on_the_known_side_and_a_refusal_on_the_other(method, released):
    found = run(method=method, reference=released).rows.filter(reason="selected")
    pairs = set(found.select("side", "response").iter_rows())
    assert pairs == {("known", "answer"), ("unknown", "answer" if method == "van" else "refusal")}
    if (REFERENCE if released else METHODS)[method].split == "correctness":
        assert (found.filter(side="known")["correctness"] >= 0.5).all()
        assert (found.filter(side="unknown")["correctness"] < 0.5).all()
        assert found["side"].equals(found["knowledge"], check_names=False)


def test_ranks_count_from_one_on_each_side():
    for method in METHODS:
        for ids, side in zip(sides(found := run(method=method)), ("known", "unknown"), strict=True):
            assert len(ids) == 8 == len(set(ids))
            assert sorted(found.rows.filter(side=side)["rank"].drop_nulls()) == list(range(1, 9))


def test_only_the_unknown_side_is_weighted_and_its_mean_is_one():
    found = run(cached("smooth"))
    known, unknown = (found.rows.filter(side=s).sort("rank") for s in ("known", "unknown"))
    assert known["weight"].to_list() == [1.0] * 8
    assert unknown["weight"].mean() == pytest.approx(1)
    assert unknown["weight"].n_unique() > 1
    assert unknown["weight"].to_list() == found.unknown.weights.tolist()
    assert found.unknown.effective_size == pytest.approx(4, abs=1e-6)
    assert (found.known.effective_size, found.known.temperature) == (8, None)
    best = (unknown["i_ref"] - unknown["i_over"]).arg_max()
    assert unknown["weight"].arg_max() == best, "weights were joined to other samples than their influences"


@pytest.mark.parametrize(
    ("method", "released"), [c for c in CASES if c[0] not in BLIND and c not in OWN_NUMBER], ids=str
)
def test_fewer_candidates_are_all_taken_with_a_warning(method, released):
    """All that the rule lets through, on both sides."""
    table = method_of(Settings(method, reference=released))
    weights = "uniform" if table.weights == "intent" else None
    found = run(method=method, reference=released, known=1000, unknown=1000, weights=weights)
    for side in ("known", "unknown"):
        left_out = [*OWN_REASONS, "not-probed", "gradient-zero"]
        mine = found.rows.filter(~pl.col("reason").is_in(left_out), knowledge=side)
        assert mine["reason"].to_list() == ["selected"] * mine.height
        assert f"1000 {side} samples were asked for, {mine.height} are usable: all are taken" in found.warnings
    assert len(found.warnings) == 2
    with pytest.raises(SelectionError, match=r"1000 (un)?known samples were asked for, \d+ are usable: ask for fewer"):
        run(method=method, reference=released, known=1000, unknown=1000, strict=True, weights=weights)


def test_draws_with_replacement_are_as_many_as_asked_for():
    """Fewer samples than draws is what drawing twice means: no warning, and no error if strict."""
    found = run(method="cor-rait", reference=True, known=1000, unknown=300, strict=True)
    assert found.warnings == []
    for side, count in (("known", 1000), ("unknown", 300)):
        assert found.rows.filter(side=side)["weight"].sum() == pytest.approx(count)


def test_a_blind_method_says_what_is_short():
    number = len(usable(cached()))
    found = run(method="random", known=number - 3, unknown=8)
    assert [len(ids) for ids in sides(found)] == [number - 3, 3]
    assert found.warnings == ["8 unknown samples were asked for, 3 are usable: all are taken"]
    for method in BLIND:
        with pytest.raises(SelectionError, match="^no usable candidate is left for the unknown side: ask for fewer"):
            run(method=method, known=1000, unknown=1)


@each_case
@pytest.mark.parametrize(("level", "side"), [(1.0, "unknown"), (0.0, "known")])
def test_an_empty_side_is_an_error(method, released, level, side):
    given = cached("smooth").with_columns(correctness=[level] * 60)
    if method_of(Settings(method, reference=released)).split != "correctness":
        assert all(sides(run(given, method=method, reference=released))), "this method asks no label"
        return
    with pytest.raises(SelectionError, match=f"^no usable candidate on the {side} side at threshold 0.5 .boundary"):
        run(given, method=method, reference=released)


@each_case
def test_no_candidates_are_an_error(method, released):
    with pytest.raises(SelectionError, match="^no usable candidate"):
        run(World(cached().frame.clear(), {}), method=method, reference=released)


def test_random_sides_are_disjoint_and_blind_to_knowledge():
    given = cached("smooth", 300)
    for method in BLIND:
        known, unknown = sides(run(given, method=method, known=100, unknown=100))
        assert not set(known) & set(unknown)
        assert (len(known), len(unknown)) == (100, 100)
        level = dict(given.frame.select("sample_id", "correctness").iter_rows())
        assert abs(np.mean([level[i] for i in known]) - np.mean([level[i] for i in unknown])) < 0.15
        flipped = given.with_columns(correctness=(1 - pl.col("correctness")).cast(pl.Float32))
        assert sides(run(flipped, method=method, known=100, unknown=100)) == (known, unknown)


def test_a_blind_method_goes_by_its_rules_too():
    """The known are chosen from all, the unknown from the rest: each by its own rule, within its own strata."""
    given = cached("smooth")
    known, unknown = sides(run(given, method="random", unknown_rule="i-ref", known_rule="most-certain"))
    rows = {r["sample_id"]: r for r in usable(given)}
    assert known == sorted(rows, key=lambda i: -rows[i]["certainty"])[:8]
    assert unknown == sorted(set(rows) - set(known), key=lambda i: -rows[i]["i_ref"])[:8]
    fell = run(given, method="random", known_rule="random-falling", unknown_rule="random-falling").rows
    assert (fell.filter(reason="selected")["flow"] < 0).all()
    even = run(given, method="random", quota="subject", known=20).rows.filter(side="known")
    share = dict(given.frame["subject"].fill_null("").value_counts().iter_rows())
    found = dict(even["subject"].fill_null("").value_counts().iter_rows())
    assert all(abs(found.get(s, 0) - 20 * n / 60) <= 1.5 for s, n in share.items()), "a quota was not kept"


def test_a_method_without_influences_cannot_weigh_by_them():
    given = cached().with_columns(i_ref=[None] * 60, i_over=[None] * 60)
    with pytest.raises(SelectionError, match="^weights 'intent' need influences, which cor-rait did not compute: use"):
        run(given, method="cor-rait", weights="intent")
    assert run(given, method="cor-rait").unknown.weights.tolist() == [1.0] * 8


def test_missing_numbers_never_outrank_real_ones():
    given = cached("smooth", 6).with_columns(
        correctness=[0, 0, 0, 1, 1, 1],
        i_ref=[None, 0.1, 0.2, 0, 0, 0],
        certainty=[0.5, 0.5, 0.5, None, 0.1, 0.2],
    )
    assert sides(run(given, known=3, unknown=3, weights="uniform", known_rule="most-certain")) == (
        ["id005", "id004", "id003"],
        ["id002", "id001", "id000"],
    )
    tied = given.with_columns(correctness=[0, 0, 0, 1, 1, 1], certainty=[0.5, 0.5, 0.5, None, 0.1, 0.2])
    assert sides(run(tied, known=3, unknown=3, weights="uniform"))[0] == ["id005", "id004", "id003"]
    missing = given.with_columns(certainty=[0.1, None, None, None, None, 0.1], flow=[-0.1] * 6)
    for method in ("corcer-rait", "craft"):
        for count in (1, 2):
            known, unknown = sides(run(missing, method=method, known=count, unknown=count, reference=True))
            assert (known[0], unknown[0]) == ("id005", "id000")
            assert len(known) == len(unknown) == (1 if count == 1 else 3), "missing numbers tie with the last place"


def test_one_look_says_nothing_of_stability():
    looks = [[9.0], [0.1, 0.2], [0.2, 0.2], None, [], [0.3, 0.1], [-0.2, -0.2], [0.0, 0.0]]
    given = cached("smooth", 9).with_columns(i_ref_each=[*looks, None], correctness=[0] * 8 + [1])
    ranked = sides(run(given, method="stable", known=1, unknown=8))[1]
    assert ranked[:4] == ["id002", "id001", "id005", "id006"], "a single number has no spread, not a spread of 0"


@pytest.mark.parametrize(("method", "released"), [("craft", False), ("craft-no-certainty", False), ("craft", True)])
def test_craft_says_whose_knowledge_did_not_fall(method, released):
    flow = [-0.1, 0.0, 0.1, None, -0.2, -0.3, None, 0.0]
    given = cached("smooth", 8).with_columns(flow=flow, correctness=[0] * 6 + [1] * 2, choice=[False] * 8)
    rows = run(given, method=method, reference=released, known=1, unknown=2).rows
    reasons = dict(rows.select("sample_id", "reason").iter_rows())
    assert [reasons[f"id00{i}"] for i in (1, 2, 3)] == ["knowledge-did-not-fall"] * 2 + ["no-flow"]
    assert sorted(reasons[f"id00{i}"] for i in (0, 4, 5)) == ["outranked", "selected", "selected"]
    assert {reasons["id006"], reasons["id007"]} == {"selected", "outranked"}, "the known side asks for no flow"
    none = given.with_columns(flow=[None] * 8, correctness=[0] + [1] * 7)
    with pytest.raises(
        SelectionError, match=r"^rule '.*falling' leaves no candidate on the unknown side \(1 no-flow\)"
    ):
        run(none, method=method, reference=released, known=1, unknown=2)


@pytest.mark.parametrize("method", ["herding", "facility", "gradmatch", "hard-known", "craig"])
def test_a_method_that_needs_gradients_says_so(method):
    frame = cached().frame
    with pytest.raises(SelectionError, match="rule needs gradients: extract them first"):
        select(frame, Settings(method=method, known=5, unknown=5))
    with pytest.raises(SelectionError, match="rule needs gradients: extract them first"):
        select(frame, Settings(method="grait", known=5, unknown=5, quota="clusters:3"))


def test_a_method_needs_what_its_rules_and_weights_read():
    needs = {name: set(needs_of(m)) for name, m in METHODS.items()}
    assert needs["cor-rait"] == needs["corcer-rait"] == needs["random"] == needs["van"] == set()
    assert needs["craft"] == needs["craft-no-certainty"] == {"flow"}
    assert needs["grait"] == needs["stable"] == {"influence"}
    assert needs["less"] == {"target"}
    assert needs["herding"] == needs["facility"] == needs["craig"] == needs["gradmatch"] == {"vectors"}
    assert needs["hard-known"] == {"vectors"}
    for change, more in (("intent", "influence"), ("reference", "influence"), ("mean-matching", "vectors")):
        assert needs_of(method_of(Settings("cor-rait", weights=change))) == {more}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"method": "grait"}, "refusal"),
        ({"method": "grait", "refusals": "pool"}, "pool"),
        ({"method": "r-tuning-r"}, "pool"),
        ({"method": "r-tuning-r", "refusals": "one"}, "refusal"),
        ({"method": "r-tuning"}, "unsure"),
        ({"method": "van"}, "answer"),
    ],
)
def test_what_the_unknown_side_says(asked, says):
    assert method_of(Settings(**asked)).says == says


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"method": "r-tuning", "refusals": "pool"}, "r-tuning trains no refusal text: leave out --refusals pool"),
        ({"method": "van", "refusals": "one"}, "van trains no refusal text"),
        ({"method": "grait", "penalty": 1.0}, "penalty means nothing to i-ref, top-correct: it is for"),
        ({"method": "herding", "target": "true"}, "target means nothing to herding: it is for target"),
    ],
)
def test_a_setting_that_no_rule_hears_is_refused(asked, message):
    with pytest.raises(SelectionError, match=message):
        method_of(Settings(**asked))


def test_parts_of_a_method_can_be_replaced():
    method = method_of(Settings("grait", known_rule="hard", unknown_rule="herding", weights="uniform", boundary="drop"))
    assert (method.known, method.unknown, method.weights, method.boundary) == ("hard", "herding", "uniform", "drop")
    assert method_of(Settings("grait")) == METHODS["grait"]
    assert method_of(Settings("grait", reference=True)) == REFERENCE["grait"]
    assert needs_of(method) == {"vectors"}
    given = cached("smooth")
    whole = run(given, method="hard-known")
    parts = run(given, method="grait", known_rule="hard", unknown_rule="herding", weights="uniform")
    assert sides(parts) == sides(whole)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"boundary": "up"}, "boundary 'up': expected known, unknown, drop"),
        ({"known": 0}, "0 known and 5 unknown samples: expected at least 1 of each"),
        ({"unknown": -1}, "5 known and -1 unknown samples"),
        ({"threshold": 1.1}, "threshold 1.1: correctness is between 0 and 1"),
        ({"threshold": float("nan")}, "threshold nan"),
        ({"penalty": -0.1}, "penalty -0.1: expected 0 or more, and finite"),
        ({"penalty": float("inf")}, "penalty inf: expected 0 or more"),
        ({"penalty": float("nan")}, "penalty nan: expected 0 or more"),
        ({"quota": "topic"}, "quota 'topic': expected subject, or clusters:N with N ≥ 2"),
        ({"quota": ""}, "quota '': expected subject"),
        ({"quota": "clusters"}, "quota 'clusters': expected subject"),
        ({"quota": "clusters:1"}, "quota 'clusters:1': expected subject"),
        ({"quota": "clusters:-3"}, "quota 'clusters:-3': expected subject"),
        ({"quota": "subject:3"}, "quota 'subject:3': expected subject"),
        ({"quota": "subject", "reference": True}, "quota 'subject' with --reference: no released code has quotas"),
    ],
)
def test_invalid_settings_say_what_to_give(wrong, message):
    with pytest.raises(SelectionError, match=message):
        Settings(**({"known": 5, "unknown": 5} | wrong))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "best"}, "no method 'best': there are grait, cor-rait, corcer-rait, craft,"),
        ({"method": "best", "reference": True}, "no method 'best': there are grait, cor-rait, corcer-rait, craft,"),
        ({"method": "less", "reference": True}, "no reference mode of method 'less': there are grait, cor-rait,"),
        ({"known_rule": "best"}, "no rule 'best': there are random, top-correct, most-certain,"),
        ({"unknown_rule": "best"}, "no rule 'best': there are random, top-correct, most-certain,"),
        ({"weights": "best"}, "weight rule 'best': expected uniform, intent, reference, knowledge, mean-matching,"),
        ({"refusals": "many"}, "refusals 'many': expected one, pool"),
        ({"weights": "uniform", "temperature": 0.1}, "weights 'uniform' have no temperature: leave out --temperature"),
        ({"weights": "mean-matching", "ess": 3}, "weights 'mean-matching' have no temperature: leave out"),
        ({"weights": "multiplicity", "ess": 3}, "weights 'multiplicity' have no temperature: leave out"),
        ({"cap": 0.5}, "a cap of 0.5 on 8 weights holds at most 4, their total is 8: raise --cap or lower"),
        ({"weights": "knowledge", "cap": 0.5}, "a cap of 0.5 on 8 weights holds at most 4, their total is 8"),
        ({"weights": "multiplicity", "weight_total": 0}, "weight total 0: expected more than 0"),
        ({"ess": 9}, "effective sample size 9, expected 1 to 8, the number of selected unknowns"),
        ({"ess": 2, "temperature": 1.0}, "both a temperature and an effective sample size came: give one of them"),
        ({"unknown_rule": "hard"}, "rule 'hard' goes by the chosen unknowns: it is a rule for the known side"),
        (
            {"unknown": 30, "unknown_rule": "leftovers"},
            "30 unknown samples were asked for, 0 are usable: ask for fewer of",
        ),
    ],
)
def test_a_selection_that_cannot_be_made_is_one_clear_sentence(wrong, message):
    with pytest.raises(SelectionError, match=f"^{message}") as caught:
        run(cached("smooth"), **wrong)
    assert "\n" not in str(caught.value)
