"""What a run says about its features: numbers against the whole vectors, and words where they say something."""

import pytest
import torch

from gradstore.models.diagnostics import ROWS, Watch, below_eps, in_words
from gradstore.models.features import Moments, direction


@pytest.fixture
def moments():
    generator = torch.Generator().manual_seed(0)
    pairs = {n: (torch.randn(40, generator=generator), torch.rand(40, generator=generator)) for n in ("a", "b")}
    return Moments(pairs, 5, 0.9, 0.999, 1e-8)


def test_cosines_are_those_of_the_whole_vectors(moments):
    generator = torch.Generator().manual_seed(1)
    gradients = {n: torch.randn(6, 40, generator=generator) for n in ("a", "b")}
    watch = Watch()
    watch.begin()
    for rows in (slice(0, 4), slice(4, 6)):  # blocks of a batch
        for name, g in gradients.items():
            watch.see(rows.start, g[rows], direction("adam", name, moments))
    watch.end()
    f, s, z = [], [], []
    for name, g in gradients.items():
        gamma = direction("adam", name, moments)
        f.append(gamma(g)), s.append(g.sign()), z.append(gamma(torch.zeros_like(g)))
    f, s, z = (torch.cat(x, dim=1) for x in (f, s, z))
    report = watch.report()
    assert report["cosine_to_sign"] == pytest.approx(torch.cosine_similarity(f, s).mean().item(), rel=1e-5)
    assert report["cosine_to_shared_step"] == pytest.approx(torch.cosine_similarity(f, z).mean().item(), rel=1e-5)


def test_a_watch_looks_at_the_first_rows_only_and_skips_what_is_not_a_number(moments):
    watch = Watch()
    g = torch.ones(ROWS, 40)
    g[0] = torch.nan
    for block in (g, -g):  # one batch cannot take all places: the second has the other response
        assert not watch.full
        watch.begin()
        watch.see(0, torch.ones(ROWS, 40), direction("sgd", "a", None))
        watch.begin()  # the batch failed and comes again
        watch.see(0, block, direction("sgd", "a", None))
        watch.end()
    assert watch.full
    assert watch.report() == {"cosine_to_sign": pytest.approx(1.0), "cosine_to_shared_step": None}


def test_nothing_seen_is_no_number():
    assert Watch().report() == {"cosine_to_sign": None, "cosine_to_shared_step": None}
    assert below_eps("sgd", None) is None


def test_second_moments_below_the_floor_are_counted():
    v = torch.tensor([0.0, 1e-17, 1e-12, 1.0])
    found = Moments({"w": (torch.zeros(4), v)}, 1, 0.9, 0.999, 1e-8)
    assert below_eps("adam", found) == 0.5
    assert below_eps("less", found) == 0.75, "less has its eps, 1e-8, inside the root"


def test_words_say_when_the_preconditioner_is_off_or_drowns_the_sample():
    quiet = {"v_below_eps": 0.1, "cosine_to_sign": 0.5, "cosine_to_shared_step": 0.5}
    assert in_words("adam", quiet) == []
    assert "preconditioner is off: 75%" in in_words("less", quiet | {"v_below_eps": 0.75})[0]
    assert "nearly the signs of their gradients (cosine 0.98)" in in_words("adam", quiet | {"cosine_to_sign": 0.98})[0]
    assert "--feature adam-delta" in in_words("adam", quiet | {"cosine_to_shared_step": 0.96})[0]
    assert in_words("sign", quiet | {"cosine_to_sign": 1.0}) == []
