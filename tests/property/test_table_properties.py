"""Properties that hold for any rows: written = read, in any order and in any pieces; weights and ids for any input."""

import itertools
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gradstore.identity import normalise_question, sample_id
from gradstore.judging import judge_open, normalise_answer
from gradstore.schemas import TABLES, gradients
from gradstore.store import GradientStore
from gradstore.weighting import effective_size, spread_excess, weigh
from tests import reference

SLOW = settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
QUICK = settings(deadline=None, max_examples=80)
TEXT = st.text(max_size=20).filter(lambda t: "\0" not in t)
FRESH = itertools.count()


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> GradientStore:
    return GradientStore.create(tmp_path_factory.mktemp("properties") / "store")


SAMPLE = st.fixed_dictionaries(
    {
        "source": TEXT,
        "split": st.none() | TEXT,
        "role": TEXT,
        "subject": st.none() | TEXT,
        "task": st.sampled_from(["mcqa", "oeqa"]),
        "question": TEXT,
        "choices": st.none() | st.lists(TEXT, max_size=4),
        "answer": TEXT,
        "aliases": st.none() | st.lists(TEXT, max_size=3),
        "ordinal": st.integers(-(2**63), 2**63 - 1),
        "exposure": st.none() | TEXT,
    }
)


@SLOW
@given(st.lists(SAMPLE, min_size=1, max_size=6), st.integers(2, 6), st.randoms(use_true_random=False))
def test_samples_are_read_as_they_were_written_in_whatever_pieces(store, rows, piece, shuffler):
    example = next(FRESH)
    rows = [{"sample_id": f"{example}-{i}", **row} for i, row in enumerate(rows)]
    pieces = [rows[i : i + piece] for i in range(0, len(rows), piece)] * 2
    shuffler.shuffle(pieces)
    new = [store.write("samples", pa.Table.from_pylist(p, schema=TABLES["samples"].schema)).new for p in pieces]
    found = [r for r in store.scan("samples").collect().to_dicts() if r["sample_id"].startswith(f"{example}-")]
    assert sorted(found, key=lambda r: r["sample_id"]) == rows
    assert sum(new) == len(rows)


@SLOW
@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_vectors_are_read_bit_for_bit(store, n, dim, block_rows, seed):
    recipe = f"r{next(FRESH)}"
    bits = np.random.default_rng(seed).integers(0, 2**16, (n, dim), dtype=np.uint16)
    bits[(bits & 0x7C00) == 0x7C00] = 0x8000  # NaN and inf are refused: −0 instead
    ids = [f"s{i}" for i in range(n)]
    row = {"response": "refusal", "checkpoint_id": "c", "recipe_id": recipe, "n_tokens": 1, "status": "ok"}
    schema = gradients(dim).schema
    table = pa.Table.from_pylist([{"row_id": f"{recipe}-{i}", "sample_id": i, **row} for i in ids], schema=schema)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(bits.view(np.float16).ravel()), dim)
    store.write("gradients", table.set_column(schema.get_field_index("vector"), schema.field("vector"), vectors))
    read = {
        i: row.tolist()
        for batch, block in store.blocks(recipe, rows=block_rows)
        for i, row in zip(batch["sample_id"].to_pylist(), block, strict=True)
    }
    assert read == dict(zip(ids, bits.tolist(), strict=True))


SCORES = st.lists(st.integers(-1000, 1000).map(lambda i: i / 1000), min_size=2, max_size=30)


@QUICK
@given(SCORES, st.floats(0, 1))
def test_any_effective_size_above_the_number_of_maxima_is_met(scores, where):
    score, tied = np.array(scores), scores.count(max(scores))
    ess = tied + where * (len(scores) - tied)
    found = weigh(score, np.zeros(len(score)), ess=ess)
    assert found.effective_size == pytest.approx(ess, abs=1e-6)
    assert found.weights.sum() == pytest.approx(len(score))
    order = np.argsort(score, kind="stable")
    assert (np.diff(found.weights[order]) >= -1e-12).all(), "a better score weighs less"


@QUICK
@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=20), st.floats(1, 5))
@example([1.0, 1.0], 1.0)
def test_a_cap_keeps_total_and_order_and_is_kept(weights, slack):
    given_weights, cap = np.array(weights), np.mean(weights) * slack
    capped = spread_excess(given_weights, cap)
    assert capped.max() <= cap * (1 + 1e-12)
    assert capped.sum() == pytest.approx(given_weights.sum())
    order = np.argsort(given_weights, kind="stable")
    assert (np.diff(capped[order]) >= -1e-9 * cap).all(), "the cap turned the order of two weights round"
    np.testing.assert_allclose(capped, reference.capped(weights, cap), rtol=1e-6)
    assert effective_size(capped) >= effective_size(given_weights) * (1 - 1e-9), "capping made weights less equal"


@QUICK
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20), st.floats(1e-3, 1e3))
def test_effective_size_lies_between_1_and_n_and_has_no_unit(weights, scale):
    size = effective_size(np.array(weights))
    assert 1 - 1e-9 <= size <= len(weights) + 1e-9
    assert size == pytest.approx(effective_size(np.array(weights) * scale))


@QUICK
@given(st.text(max_size=30), st.sampled_from([" ", "\t", "\n ", "\u00a0"]))
def test_an_id_does_not_depend_on_white_space_or_composition(question, space):
    wide = space + space.join(unicodedata.normalize("NFD", question).split(" ")) + space
    assert normalise_question(wide) == normalise_question(question)
    assert sample_id("oeqa", wide, None) == sample_id("oeqa", question, None)


@QUICK
@given(st.text(max_size=30), st.text(max_size=30))
def test_an_answer_is_found_in_itself_and_empty_ones_nowhere(text, output):
    assert normalise_answer(normalise_answer(text)) == normalise_answer(text)
    assert judge_open(output, [""]) in ("wrong", "refused")
    if normalise_answer(text):
        assert judge_open(text, [text]) in ("correct", "refused")
