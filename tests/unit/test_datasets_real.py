"""The presets on the real files beside the repository; skipped where those are absent."""

from collections import Counter
from pathlib import Path

import pytest

from gradstore.datasets import read_files

DATA = Path(__file__).parents[3] / "shared" / "data"


def read(name, preset):
    if not (DATA / name).exists():
        pytest.skip(f"no real questions at {DATA / name}")
    found = read_files([DATA / name], preset=preset)
    assert found.read == found.samples.num_rows + found.duplicates + found.rejects.num_rows
    found.samples.validate(full=True)
    assert len(set(found.samples["sample_id"].to_pylist())) == found.samples.num_rows
    return found


def test_nq_dev_is_read_whole():
    found = read("nq/dev.json", "nq")
    assert found.read == 3000
    assert found.samples.num_rows > 2900


def test_mmlu_test_is_read_whole():
    found = read("mmlu/test", "mmlu")
    subjects = set(found.samples["subject"].to_pylist())
    assert len(subjects) == 45
    assert not any("_" in subject or "test" in subject for subject in subjects)
    assert set(found.samples["split"].to_pylist()) == {"test"}
    assert found.samples.num_rows > 0.99 * found.read - found.duplicates
    assert set(found.rejects["reason"].to_pylist()) <= {"bad-choices", "conflicting-answers"}


def test_arc_digit_labels_become_letters():
    found = read("arc/ARC-Challenge-Test.jsonl", "arc")
    assert found.read == 1172
    assert "gold-not-an-option" not in found.rejects["reason"].to_pylist()
    assert set(found.samples["answer"].to_pylist()) <= set("ABCDE")
    sizes = Counter(len(choices) for choices in found.samples["choices"].to_pylist())
    assert set(sizes) == {3, 4, 5}
