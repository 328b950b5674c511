"""Vectors in memory: influence, herding and neighbours, beside the bandwidth, a matrix product and the N×N Gram."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import query_world as world

from gradstore.influence import influence
from gradstore.kernels.half import add_groups, dot
from gradstore.kernels.neighbours import neighbours
from gradstore.selection.herding import herd
from gradstore.selection.pool import mean_of

GRAM_BYTES = 4 << 30  # (a) is measured where its matrix fits here


class Rows:
    """Vectors in memory, two groups of them (even and odd), and the groups' means."""

    def __init__(self, held: np.ndarray) -> None:
        self.held, self.bits = held, held.view(np.uint16)
        self.ids = world.ids(len(held))
        self.groups = {"known": self.ids[::2], "unknown": self.ids[1::2]}
        self.labels = np.arange(len(held)) % 2
        self.sizes = np.bincount(self.labels, minlength=2)[:, None]
        self.means = self.sums() / self.sizes
        self.blocks = world.blocks(held)

    def sums(self) -> np.ndarray:
        sums = np.zeros((2, self.held.shape[1]))
        add_groups(self.bits, self.labels, sums)
        return sums

    def kernels(self) -> np.ndarray:
        """Influence by the two kernels alone."""
        return dot(self.bits, self.sums() / self.sizes)

    def function(self) -> object:
        """Influence as the library gives it: streamed by the thousand, joined by id, as a frame."""
        return influence(lambda _: self.blocks, self.groups, {world.CHECKPOINT: 1.0})[0]


def in_memory(rows: Rows, rounds: int) -> dict[str, Any]:
    """(a), (b) and ours from warm memory, beside the bandwidth."""
    wide = rows.held.astype(np.float32)
    means = rows.means.astype(np.float32)
    try:
        import torch

        x, m, by = torch.from_numpy(wide), torch.from_numpy(means), f"torch {torch.__version__}"
        product, gram = (lambda: x @ m.T), (lambda: x @ x.T)
    except ImportError:
        by = f"numpy {np.__version__}"
        product, gram = (lambda: wide @ means.T), (lambda: wide @ wide.T)
    ways: dict[str, Callable[[], object]] = {
        "bandwidth": lambda: world.read_once(rows.held),
        "means": rows.sums,
        "scores": lambda: dot(rows.bits, rows.means),
        "kernels": rows.kernels,
        "influence": rows.function,
        "b": product,
    }
    times = world.rounds_of(ways, rounds)
    size = rows.held.nbytes
    found: dict[str, Any] = {"rows": len(rows.held), "seconds": world.medians(times), "b_by": by}
    found["bandwidth_gbs"] = size / statistics.median(times["bandwidth"]) / 1e9
    for name, passes in (("means", 1), ("scores", 1), ("kernels", 2), ("influence", 2)):
        found[f"{name}_gbs"] = passes * size / statistics.median(times[name]) / 1e9
        found[f"{name}_of_bandwidth"] = passes / world.ratio(times, name, "bandwidth")
    found["b_to_scores"], found["b_to_kernels"] = (world.ratio(times, "b", n) for n in ("scores", "kernels"))
    found["b_bytes"], found["our_bytes"] = wide.nbytes, size
    if 4 * len(wide) ** 2 <= GRAM_BYTES:
        whole: list[Any] = []
        found["a_seconds"] = world.seconds(lambda: whole.append(gram()))
        found["a_seconds"] += world.seconds(lambda: [np.asarray(whole[0])[:, k::2].mean(axis=1) for k in (0, 1)])
        found["a_to_influence"] = found["a_seconds"] / found["seconds"]["influence"]
        found["a_to_kernels"] = found["a_seconds"] / found["seconds"]["kernels"]
        theirs = np.stack([np.asarray(whole[0])[:, k::2].mean(axis=1) for k in (0, 1)], axis=1)
        found["a_difference"] = float(np.abs(theirs - rows.kernels()).max())
    return found


def growth(held: np.ndarray, rounds: int) -> list[dict[str, Any]]:
    """Seconds at an eighth, a quarter, half and all of the rows: linear if microseconds a row stay."""
    sizes = [len(held) // part for part in (8, 4, 2, 1)]
    some = {n: Rows(held[:n]) for n in sizes}
    ways: dict[str, Callable[[], object]] = {
        f"{n} {way}": getattr(some[n], way) for n in sizes for way in ("kernels", "function")
    }
    times = world.medians(world.rounds_of(ways, rounds))
    return [
        {"rows": n, **{f"{way}_us_a_row": times[f"{n} {way}"] / n * 1e6 for way in ("kernels", "function")}}
        for n in sizes
    ]


def picks(rows: Rows, count: int, sample: int) -> dict[str, Any]:
    """Herding of ``count``; the 10 nearest of ``sample`` rows among all (of all, where that is feasible)."""
    herding = world.seconds(lambda: herd(rows.bits, mean_of(rows.bits), count))
    some = np.linspace(0, len(rows.held) - 1, min(sample, len(rows.held))).astype(np.int64)
    nearest = world.seconds(lambda: neighbours(rows.bits[some], rows.bits, 10, own=some))
    flops = 2 * len(some) * rows.held.size
    return {
        "rows": len(rows.held),
        "herding": count,
        "herding_seconds": herding,
        "readings": herding / max(1e-9, world.seconds(lambda: dot(rows.bits, rows.means))),
        "neighbours_of": len(some),
        "neighbours_seconds": nearest,
        "neighbours_gflops": flops / nearest / 1e9,
    }
