"""Functions over gradients in SQL, against cosines taken one pair at a time in float64."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from gradstore.errors import QueryError, StoreError
from gradstore.identity import row_id
from gradstore.schemas import TABLES, gradients
from gradstore.store import GradientStore, find_sample, influence, run_query

DIM, N = 24, 9
IDS = [f"s{i:02}" for i in range(N)]
KNOWN, UNKNOWN = IDS[:4], IDS[4:8]  # the ninth was not probed
BAD = ("s05", "refusal", "c1")
GROUP = "(SELECT sample_id FROM questions WHERE correctness < 0.5)"


def unit(*key) -> np.ndarray:
    row = np.random.default_rng(list("".join(key).encode())).normal(size=DIM) + 0.4
    return (row / np.linalg.norm(row)).astype(np.float16)


VECTORS = {(i, r, c): unit(i, r, c) for i in IDS for r in ("answer", "refusal") for c in ("c1", "c2")}
VECTORS[("s07", "refusal", "c1")] = VECTORS[("s06", "refusal", "c1")]  # a tie


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> GradientStore:
    store = GradientStore.create(tmp_path_factory.mktemp("functions") / "store")
    base = {"source": "qa", "role": "train", "task": "oeqa", "answer": "x", "subject": "art"}
    samples = [
        base | {"sample_id": i, "question": f"Wer ist »{i}«, (a) oder 'b'?", "ordinal": n} for n, i in enumerate(IDS)
    ]
    store.write("samples", pa.Table.from_pylist(samples, schema=TABLES["samples"].schema))
    probed = {"probe_id": "p", "model_id": "m", "prompt_id": "q", "n_samples": 1, "status": "ok"}
    probes = [
        probed | {"row_id": row_id(i, "p"), "sample_id": i, "correctness": float(i in KNOWN)}
        for i in [*KNOWN, *UNKNOWN]
    ]
    store.write("probes", pa.Table.from_pylist(probes, schema=TABLES["probes"].schema))
    rows = [
        {"row_id": row_id(i, r, c, "r"), "sample_id": i, "response": r, "checkpoint_id": c, "recipe_id": "r"}
        | {"n_tokens": 3, "loss": 1.0, "norm": 1.0}
        | ({"status": "nan", "vector": None} if (i, r, c) == BAD else {"status": "ok", "vector": v.tolist()})
        for (i, r, c), v in VECTORS.items()
    ]
    store.write("gradients", pa.Table.from_pylist(rows, schema=gradients(DIM).schema))
    return store


def cosine(a, b) -> float:
    return float(VECTORS[a].astype(float) @ VECTORS[b].astype(float))


def usable(members, response, checkpoint):
    return [(m, response, checkpoint) for m in members if (m, response, checkpoint) != BAD]


def mean_cosine(row, members, response="refusal"):
    group = usable(members, response, row[2])
    return sum(cosine(row, other) for other in group) / len(group)


def ranked(row, members, response="refusal"):
    group = [g for g in usable(members, response, row[2]) if g[0] != row[0]]
    return sorted(((cosine(row, g), g[0]) for g in group), key=lambda p: (-p[0], p[1]))


def asked(store, sql) -> dict:
    """(sample, response, checkpoint) → value of the column v."""
    frame = run_query(store, sql)
    return {(r["sample_id"], r["response"], r["checkpoint_id"]): r["v"] for r in frame.iter_rows(named=True)}


KEYS = "sample_id, response, checkpoint_id"


@pytest.mark.parametrize("response", ["refusal", "answer"])
def test_influence_is_the_mean_cosine_within_a_checkpoint(store, response):
    found = asked(store, f"SELECT {KEYS}, influence({GROUP}, '{response}') AS v FROM gradients")
    assert set(found) == set(VECTORS)
    assert found.pop(BAD) is None, "a row that is not ok has no influence"
    for row, value in found.items():
        assert value == pytest.approx(mean_cosine(row, UNKNOWN, response), abs=1e-6), row


def test_similarity_is_the_cosine_with_one_sample(store):
    found = asked(store, f"SELECT {KEYS}, similarity('s03', 'answer') AS v FROM gradients WHERE status = 'ok'")
    for row, value in found.items():
        assert value == pytest.approx(cosine(row, ("s03", "answer", row[2])), abs=1e-6)


def test_nearest_leaves_a_sample_itself_out_and_ties_go_to_the_lower_id(store):
    found = asked(store, f"SELECT {KEYS}, nearest({GROUP}) AS v FROM gradients WHERE status = 'ok'")
    closeness = asked(store, f"SELECT {KEYS}, nearest_similarity({GROUP}) AS v FROM gradients WHERE status = 'ok'")
    for row, value in found.items():
        best, who = ranked(row, UNKNOWN)[0]
        assert value == who, row
        assert closeness[row] == pytest.approx(best, abs=1e-6)
    assert found[("s08", "refusal", "c1")] != "s07", "s06 and s07 are the same vector there: the lower id wins"


def test_neighbours_are_ranked_and_can_be_unnested(store):
    found = asked(store, f"SELECT {KEYS}, neighbours({GROUP}, 3) AS v FROM gradients WHERE status = 'ok'")
    for row, value in found.items():
        expected = ranked(row, UNKNOWN)[:3]
        assert [n["sample_id"] for n in value] == [who for _, who in expected]
        assert [n["similarity"] for n in value] == pytest.approx([c for c, _ in expected], abs=1e-6)
    rows = run_query(
        store,
        f"SELECT n.near.sample_id AS other FROM (SELECT UNNEST(neighbours({GROUP}, 2)) AS near FROM gradients "
        "WHERE sample_id = 's00' AND response = 'refusal' AND checkpoint_id = 'c2') AS n",
    )
    assert rows["other"].to_list() == [who for _, who in ranked(("s00", "refusal", "c2"), UNKNOWN)[:2]]


PLACES = {
    "WHERE": f"SELECT COUNT(*) AS n FROM gradients WHERE influence({GROUP}) > -2",
    "alias": f"SELECT COUNT(*) AS n FROM gradients AS g WHERE influence({GROUP}) > -2 AND g.status = 'ok'",
    "ORDER BY": f"SELECT COUNT(*) AS n FROM (SELECT status FROM gradients ORDER BY influence({GROUP})) AS x "
    "WHERE x.status = 'ok'",
    "arithmetic": f"SELECT SUM(CASE WHEN 2 * influence({GROUP}) + 5 > 0 THEN 1 ELSE 0 END) AS n FROM gradients",
    "JOIN": f"SELECT COUNT(influence({GROUP})) AS n FROM samples s JOIN gradients g ON g.sample_id = s.sample_id",
    "subquery": f"SELECT COUNT(v) AS n FROM (SELECT influence({GROUP}) AS v FROM gradients)",
    "CTE": f"WITH x AS (SELECT influence({GROUP}) AS v FROM gradients) SELECT COUNT(v) AS n FROM x",
    "twice": f"SELECT COUNT(influence({GROUP}) - influence({GROUP})) AS n FROM gradients",
    "text": f"SELECT COUNT(influence( {GROUP} )) AS n /* influence( */ FROM gradients -- »x«\nWHERE ')(' <> '('",
    "group in a group": "SELECT COUNT(influence((SELECT sample_id FROM gradients WHERE similarity('s00') > -2))) AS n "
    "FROM gradients",
}


@pytest.mark.parametrize("place", PLACES)
def test_a_call_may_stand_wherever_a_column_may(store, place):
    assert run_query(store, PLACES[place]).item() == len(VECTORS) - 1, "all rows but the one that is not ok"


def test_a_condition_on_the_rows_changes_what_is_read_not_what_is_found(store):
    whole = asked(store, f"SELECT {KEYS}, influence({GROUP}) AS v FROM gradients")
    part = asked(
        store,
        f"SELECT {KEYS}, influence({GROUP}) AS v FROM gradients WHERE response = 'answer' AND checkpoint_id = 'c2'",
    )
    assert part == {k: v for k, v in whole.items() if k[1:] == ("answer", "c2")}
    assert len(part) == N
    one = f"SELECT {KEYS}, influence({GROUP}) AS v FROM gradients WHERE sample_id = 's03' AND response = 'refusal'"
    assert asked(store, one) == {k: v for k, v in whole.items() if k[:2] == ("s03", "refusal")}


NAMES = gradients(DIM).schema.names
OTHER = "(SELECT sample_id FROM questions WHERE correctness >= 0.5)"


@pytest.mark.parametrize(
    ("sql", "columns"),
    [
        (f"SELECT *, influence({GROUP}) FROM gradients", [*NAMES, "influence"]),
        (f"SELECT g.*, influence({GROUP}) AS i FROM gradients AS g", [*NAMES, "i"]),
        (f"SELECT * EXCLUDE (vector, norm) FROM gradients WHERE influence({GROUP}) > -2", NAMES[:5] + NAMES[7:]),
        (f"SELECT DISTINCT * EXCLUDE (vector) FROM gradients g WHERE influence({GROUP}) > -2", NAMES[:5] + NAMES[6:]),
        (f"SELECT * FROM (SELECT * FROM gradients WHERE influence({GROUP}) > -2) AS x", NAMES),
        (f"SELECT AVG(influence({GROUP})) FROM gradients", ["influence"]),
        (f"SELECT sample_id, influence({GROUP}) - influence({OTHER}) FROM gradients", ["sample_id", "influence"]),
        (f"SELECT influence({GROUP}), influence({OTHER}) FROM gradients", ["influence", "influence_2"]),
        (f"SELECT 1 AS influence, (influence({GROUP})) FROM gradients", ["influence", "influence_2"]),
        (
            f"SELECT response, max(round(influence({GROUP}), 2)) FROM gradients GROUP BY response",
            ["response", "influence"],
        ),
        (f"SELECT count(*), count(influence({GROUP})) AS n FROM gradients", ["len", "n"]),
        (f"SELECT influence({GROUP}) * 2 AS twice FROM gradients", ["twice"]),
        (f'SELECT "my g".norm, influence({GROUP}) AS i FROM gradients "my g"', ["norm", "i"]),
        (f'SELECT influence({GROUP}) AS i FROM gradients AS "order"', ["i"]),
    ],
)
def test_every_column_that_was_asked_for_comes_and_no_other(store, sql, columns):
    assert run_query(store, sql).columns == columns


@pytest.mark.parametrize(("joined", "rows"), [("UNION", N), ("INTERSECT", N), ("UNION ALL", 2 * N), ("EXCEPT", 0)])
def test_stars_of_two_selects_with_calls_can_be_joined(store, joined, rows):
    """Hidden columns would make every row of the two differ."""
    where = "response = 'answer' AND checkpoint_id = 'c1'"
    one, two = (
        f"SELECT * EXCLUDE (vector) FROM gradients WHERE influence({g}) > -2 AND {where}" for g in (GROUP, OTHER)
    )
    assert run_query(store, f"{one} {joined} {two}").height == rows
    assert run_query(store, f"SELECT * FROM ({one}) AS a NATURAL JOIN ({two}) AS b").height == N


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT influence((SELECT sample_id FROM samples WHERE role = 'test')) FROM gradients", "is empty"),
        (
            "SELECT influence((SELECT question FROM samples)) FROM gradients",
            "has a usable refusal gradient, the first is",
        ),
        ("SELECT influence((SELECT ordinal FROM samples)) FROM gradients", "gives Int64, expected sample ids"),
        ("SELECT influence((SELECT nope FROM samples)) FROM gradients", "in the group of influence"),
        ("SELECT influence((SELECT * FROM read_csv('x'))) FROM gradients", "files"),
        ("SELECT influence('s00') FROM gradients", "expected influence((SELECT sample_id …)"),
        ("SELECT influence() FROM gradients", "expected influence((SELECT"),
        (f"SELECT influence({GROUP}, 'idk') FROM gradients", "'answer' | 'refusal'"),
        (f"SELECT neighbours({GROUP}) FROM gradients", "k ["),
        (f"SELECT neighbours({GROUP}, 0) FROM gradients", "k ["),
        (f"SELECT neighbours({GROUP}, -1) FROM gradients", "k ["),
        (f"WITH gradients AS (SELECT * FROM samples) SELECT influence({GROUP}) FROM gradients", "rename it"),
        (f"SELECT nope, influence({GROUP}) FROM gradients", '"sample_id", "response"'),
        ("SELECT neighbours(SELECT sample_id FROM samples, 2) FROM gradients", "neighbours((SELECT"),
        (f"SELECT influence({GROUP}) FROM samples", "0 times in the FROM"),
        (f"SELECT influence({GROUP}) FROM gradients a JOIN gradients b ON a.row_id = b.row_id", "2 times in the FROM"),
        (f"SELECT sample_id FROM samples WHERE influence({GROUP}) > 0", "is a column of gradients"),
    ],
)
def test_what_cannot_be_meant_is_said_in_one_line(store, sql, said):
    with pytest.raises(QueryError) as caught:
        run_query(store, sql)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sample_is_found_by_the_beginning_of_its_id_and_near_ones_are_named(store):
    assert find_sample(store, "s04") == "s04"
    with pytest.raises(StoreError, match=r"several samples begin with 's0': s00, s01, s02, s03, s04, …"):
        find_sample(store, "s0")
    with pytest.raises(StoreError, match="no sample 's08x' in .*: near ones are s08"):
        find_sample(store, "s08x")
    with pytest.raises(StoreError, match="questions with these words are s03"):
        find_sample(store, "Wer ist »s03")
    with pytest.raises(StoreError, match="no sample ''"):
        find_sample(store, "")
    with pytest.raises(StoreError, match="no sample 'x'"):
        run_query(store, "SELECT similarity('x') FROM gradients")


def test_influence_from_python_takes_conditions_on_both_sides(store):
    frame = influence(store, source="correctness < 0.5", target="correctness >= 0.5 AND subject = 'art'").collect()
    found = {(r["sample_id"], "refusal", r["checkpoint_id"]): r["influence"] for r in frame.iter_rows(named=True)}
    assert set(found) == {r for r in VECTORS if r[0] in UNKNOWN and r[1] == "refusal"} - {BAD}
    for row, value in found.items():
        assert value == pytest.approx(mean_cosine(row, KNOWN), abs=1e-6)
    answers = influence(store, source="true", target="correctness < 0.5", response="answer", target_response="answer")
    assert answers.collect().height == 2 * N
    with pytest.raises(QueryError, match="expected one condition"):
        influence(store, source="1 = 1) UNION SELECT (1", target="true")
    with pytest.raises(QueryError, match="expected answer or refusal"):
        influence(store, source="true", target="true", response="idk")


def test_planning_is_lazy_and_a_frame_can_be_asked_again(store):
    frame = store.sql(f"SELECT {KEYS}, influence({GROUP}) AS v FROM gradients WHERE status = 'ok'")
    assert isinstance(frame, pl.LazyFrame)
    assert (
        frame.collect()
        .sort("sample_id", "response", "checkpoint_id")
        .equals(frame.collect().sort("sample_id", "response", "checkpoint_id"))
    )


def test_vectors_of_two_recipes_are_never_multiplied(store, tmp_path):
    other = GradientStore.create(tmp_path / "two")
    base = {"checkpoint_id": "c", "response": "refusal", "n_tokens": 1, "status": "ok"}
    for recipe, dim in (("r8", 8), ("r16", 16)):
        rows = [
            base | {"row_id": row_id(i, recipe), "sample_id": i, "recipe_id": recipe, "vector": np.eye(dim)[n].tolist()}
            for n, i in enumerate(("a", "b"))
        ]
        other.write("gradients", pa.Table.from_pylist(rows, schema=gradients(dim).schema))
    group = "(SELECT sample_id FROM gradients WHERE sample_id = 'a')"
    sql = f"SELECT recipe_id, sample_id, influence({group}) AS v FROM gradients"
    found = {(r["recipe_id"], r["sample_id"]): r["v"] for r in run_query(other, sql).iter_rows(named=True)}
    assert found == {("r8", "a"): 1.0, ("r16", "a"): 1.0, ("r8", "b"): 0.0, ("r16", "b"): 0.0}
