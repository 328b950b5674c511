"""A selection depends on what the candidates are, not on their order, and says why for each of them."""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from gradstore.errors import SelectionError
from gradstore.identity import seeded_order
from gradstore.selection import METHODS, Settings, select
from tests import reference


def candidates(n: int = 60, seed: int = 0, **columns) -> pl.DataFrame:
    """n candidates with many ties: correctness in tenths, certainty in quarters; every 10th has a problem."""
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame(
        {
            "sample_id": [f"id{i:03}" for i in range(n)],
            "correctness": rng.integers(0, 11, n) / 10,
            "certainty": rng.integers(0, 5, n) / 4,
            "i_ref": rng.integers(-5, 5, n) / 100,
            "i_over": rng.normal(size=n) / 100,
            "problem": [("not-probed" if i % 20 else "gradient-zero") if i % 10 == 0 else None for i in range(n)],
        },
        schema_overrides={"correctness": pl.Float32, "certainty": pl.Float32, "problem": pl.String},
    )
    return frame.with_columns(**{k: pl.Series(k, v, frame.schema[k]) for k, v in columns.items()})


def sides(frame: pl.DataFrame) -> tuple[list[str], list[str]]:
    chosen = frame.filter(pl.col("rank").is_not_null()).sort("rank")
    return tuple(chosen.filter(response=side)["sample_id"].to_list() for side in ("answer", "refusal"))


def run(frame: pl.DataFrame | None = None, **settings):
    return select(candidates() if frame is None else frame, Settings(**({"known": 8, "unknown": 8} | settings)))


def test_grait_equals_the_twin_that_sorts_tuples():
    for seed in range(5):
        frame = candidates(seed=seed)
        twin = reference.grait_selection(frame.to_dicts(), 0.5, 9, 7, seed)
        assert sides(run(frame, known=9, unknown=7, seed=seed)[0]) == twin


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("side", ["known", "unknown"])
def test_a_selection_of_k_is_a_prefix_of_one_of_k_plus_1(method, side):
    which = ("known", "unknown").index(side)
    ids = [sides(run(method=method, **{side: k})[0])[which] for k in range(1, 20)]
    for k, (short, long) in enumerate(pairwise(ids), start=1):
        assert len(short) == k
        assert long[:-1] == short, f"asking for {k + 1} instead of {k} changed the first {k}"


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_rows_does_not_matter(method):
    results = [run(frame, method=method) for frame in (candidates(), candidates().reverse())]
    assert results[0][0].equals(results[1][0]), "ties went by file order"
    assert results[0][1].weights.tolist() == results[1][1].weights.tolist()


@pytest.mark.parametrize("seed", [0, 1])
def test_ties_go_by_certainty_then_by_the_seeded_hash(seed):
    known = candidates(6, correctness=[1.0] * 6, certainty=[0.5, 1, 1, 0.5, 1, 0.5], problem=[None] * 6)
    unknown = known.with_columns(pl.col("sample_id") + "u", correctness=pl.lit(0, pl.Float32), i_ref=pl.lit(0.1))
    ranked_known, ranked_unknown = sides(run(pl.concat([known, unknown]), known=6, unknown=6, seed=seed)[0])

    def by_hash(*ids: str) -> list[str]:
        return sorted(ids, key=lambda i: seeded_order(seed, i))

    assert ranked_known == by_hash("id001", "id002", "id004") + by_hash("id000", "id003", "id005")
    assert ranked_unknown == by_hash("id000u", "id003u", "id005u") + by_hash("id001u", "id002u", "id004u")


@pytest.mark.parametrize("method", ["cor-rait", "random"])
def test_another_seed_draws_others(method):
    drawn = [sides(run(method=method, seed=seed)[0]) for seed in (0, 1)]
    assert set(drawn[0][0]) != set(drawn[1][0])
    assert set(drawn[0][1]) != set(drawn[1][1])


@pytest.mark.parametrize("threshold", [0.5, 0.3, 0.7])
@pytest.mark.parametrize(("boundary", "side"), [("known", "known"), ("unknown", "unknown"), ("drop", None)])
@pytest.mark.parametrize("dtype", [pl.Float32, pl.Float64])
def test_correctness_equal_to_the_threshold_goes_where_boundary_says(threshold, boundary, side, dtype):
    levels = [0.0, threshold, 1.0]
    frame = candidates(3, problem=[None] * 3).with_columns(correctness=pl.Series(levels, dtype=dtype))
    found, _, _ = run(frame, threshold=threshold, boundary=boundary, known=1, unknown=1)
    assert found["knowledge"].to_list() == ["unknown", side, "known"], "float32 0.3 is not float64 0.3"
    if boundary == "drop":
        assert found["reason"].to_list() == ["selected", "at-threshold", "selected"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("boundary", ["known", "drop"])
def test_every_candidate_has_a_reason_and_none_with_a_problem_is_selected(method, boundary):
    frame = candidates()
    found, _, _ = run(frame, method=method, boundary=boundary)
    assert found["sample_id"].to_list() == frame["sample_id"].to_list()
    assert found["reason"].null_count() == 0
    problems = dict(frame.filter(pl.col("problem").is_not_null()).select("sample_id", "problem").iter_rows())
    assert len(problems) == 6
    for row in found.iter_rows(named=True):
        chosen = row["reason"] == "selected"
        assert chosen == (row["rank"] is not None) == (row["weight"] is not None) == (row["response"] is not None)
        if row["sample_id"] in problems:
            assert row["reason"] == problems[row["sample_id"]]
        elif not chosen:
            at = boundary == "drop" and abs(row["correctness"] - 0.5) < 1e-6
            assert row["reason"] == ("at-threshold" if at else "outranked")


def test_the_response_is_the_answer_on_the_known_side_and_a_refusal_on_the_other():
    found = run()[0].filter(reason="selected")
    pairs = set(found.select("knowledge", "response").iter_rows())
    assert pairs == {("known", "answer"), ("unknown", "refusal")}
    assert (found.filter(knowledge="known")["correctness"] >= 0.5).all()
    assert (found.filter(knowledge="unknown")["correctness"] < 0.5).all()


def test_only_the_unknown_side_is_weighted_and_its_mean_is_one():
    found, weights, _ = run()
    known, unknown = (found.filter(knowledge=s, reason="selected").sort("rank") for s in ("known", "unknown"))
    assert known["weight"].to_list() == [1.0] * 8
    assert unknown["weight"].mean() == pytest.approx(1)
    assert unknown["weight"].n_unique() > 1
    assert unknown["weight"].to_list() == weights.weights.tolist()
    assert weights.effective_size == pytest.approx(4, abs=1e-6)
    best = (unknown["i_ref"] - unknown["i_over"]).arg_max()
    assert unknown["weight"].arg_max() == best, "weights were joined to other samples than their influences"


def test_fewer_candidates_are_all_taken_with_a_warning():
    found, _, warnings = run(known=1000)
    usable = candidates().filter(pl.col("problem").is_null(), pl.col("correctness") >= 0.5).height
    assert warnings == [f"1000 known samples were asked for, {usable} are usable: all are taken"]
    assert len(sides(found)[0]) == usable


def test_fewer_candidates_are_an_error_if_strict():
    with pytest.raises(SelectionError, match=r"1000 unknown samples were asked for, \d+ are usable: ask for fewer"):
        run(unknown=1000, strict=True)


@pytest.mark.parametrize("method", ["grait", "cor-rait"])
@pytest.mark.parametrize(("level", "side"), [(1.0, "unknown"), (0.0, "known")])
def test_an_empty_side_is_an_error(method, level, side):
    with pytest.raises(SelectionError, match=f"no usable candidate on the {side} side at threshold 0.5"):
        run(candidates(correctness=[level] * 60), method=method)


@pytest.mark.parametrize("method", METHODS)
def test_no_candidates_are_an_error(method):
    with pytest.raises(SelectionError, match="no usable candidate"):
        run(candidates().clear(), method=method)


def test_random_sides_are_disjoint_and_blind_to_knowledge():
    frame = candidates(300)
    known, unknown = sides(run(frame, method="random", known=100, unknown=100)[0])
    assert not set(known) & set(unknown)
    assert (len(known), len(unknown)) == (100, 100)
    level = dict(frame.select("sample_id", "correctness").iter_rows())
    assert abs(np.mean([level[i] for i in known]) - np.mean([level[i] for i in unknown])) < 0.15
    flipped = frame.with_columns(correctness=(1 - pl.col("correctness")).cast(pl.Float32))
    assert sides(run(flipped, method="random", known=100, unknown=100)[0]) == (known, unknown)


def test_a_method_without_influences_cannot_weigh_by_them():
    frame = candidates(i_ref=[None] * 60, i_over=[None] * 60)
    with pytest.raises(SelectionError, match="weights 'intent' need influences, which cor-rait did not compute"):
        run(frame, method="cor-rait", weights="intent")
    assert run(frame, method="cor-rait")[1].weights.tolist() == [1.0] * 8


def test_missing_numbers_never_outrank_real_ones():
    frame = candidates(6, correctness=[0, 0, 0, 1, 1, 1], problem=[None] * 6)
    frame = frame.with_columns(
        i_ref=pl.Series([None, 0.1, 0.2, 0, 0, 0], dtype=pl.Float64),
        certainty=pl.Series([0.5, 0.5, 0.5, None, 0.1, 0.2], dtype=pl.Float32),
    )
    found, _, _ = run(frame, known=3, unknown=3, weights="uniform")
    assert sides(found) == (["id005", "id004", "id003"], ["id002", "id001", "id000"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "best"}, "no method 'best': there are grait, cor-rait, random"),
        ({"boundary": "up"}, "boundary 'up': expected known, unknown, drop"),
        ({"known": 0}, "0 known and 5 unknown samples: expected at least 1 of each"),
        ({"unknown": -1}, "5 known and -1 unknown samples"),
        ({"threshold": 1.1}, "threshold 1.1: correctness is between 0 and 1"),
        ({"threshold": float("nan")}, "threshold nan"),
    ],
)
def test_invalid_settings_say_what_to_give(wrong, message):
    with pytest.raises(SelectionError, match=message):
        Settings(**({"known": 5, "unknown": 5} | wrong))
