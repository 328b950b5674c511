"""Extraction side by side: the floor, gradstore, LESS's loop, bergson, TRAK. Ratios of one run, on one machine.

python benchmarks/extraction.py [--rounds 5] [--rivals ENV] [--json FILE] [--models demo,larger]
    [--tokens 16,64,256] [--rival-tokens 64,256]

(a) floor      one batched forward and backward that forms the adapter's gradients, summed over the batch: training
(b) gradstore  the same samples to 8192 floats each: Adam features, CountSketch, unit rows of float16
(b2) pairs     two responses to each prompt, (a) on two rows against (b) with the prompt forwarded once
(c) LESS       its loop restated: a sample at a time, autograd, dense Rademacher drawn again block by block
(c') loop      the same loop with our sketch
(d) bergson    2.5.1, its own batches; (e) TRAK's BasicProjector, projection alone

The rivals live in an environment of their own, made on the first run (--rivals ENV, default build/rivals).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from workload import SHAPES, Workload, pairs_of

from gradstore.models.adapters import adapter_parameters
from gradstore.models.encoding import Encoded
from gradstore.models.extraction import Extractor, Item
from gradstore.models.memory import peak_bytes
from gradstore.sketch import Sketch

HERE = Path(__file__).parent
BATCH_TOKENS = {16: 1024, 64: 2048, 256: 4096, 512: 4096}
DIM, BLOCK = 8192, 1024
SEEDS, KINDS = 4, ("countsketch", "rademacher")
RIVALS = ("bergson==2.5.1", "torch==2.13.0", "transformers==5.23.0", "peft==0.21.2", "traker==0.3.2")


def floor(work: Workload, extractor: Extractor, batch: list[Encoded]) -> None:
    """Forward and backward of the summed losses, with gradients of the adapter alone."""
    parameters = list(adapter_parameters(work.adapted).values())
    for p in parameters:
        p.requires_grad_(True)
    with torch.enable_grad():
        torch.autograd.grad(extractor.forward.losses(batch).sum(), parameters)
    for p in parameters:
        p.requires_grad_(False)


def one_by_one(work: Workload, extractor: Extractor, sample: Encoded) -> dict[str, torch.Tensor]:
    """LESS's get_loss and backward at batch size 1: gradients by name."""
    parameters = adapter_parameters(work.adapted)
    for p in parameters.values():
        p.requires_grad_(True)
    with torch.enable_grad():
        found = torch.autograd.grad(extractor.forward.losses([sample]).sum(), list(parameters.values()))
    for p in parameters.values():
        p.requires_grad_(False)
    return dict(zip(parameters, found, strict=True))


def less(work: Workload, extractor: Extractor, sample: Encoded) -> torch.Tensor:
    """The released loop: Adam feature of one sample, times a ±1 matrix drawn anew for it, block by block."""
    grads = one_by_one(work, extractor, sample)
    feature = torch.cat([extractor.direction(n)(g.reshape(1, -1)) for n, g in grads.items()], dim=1)
    out = torch.zeros(1, DIM)
    for start in range(0, feature.shape[1], BLOCK):
        part = feature[:, start : start + BLOCK]
        generator = torch.Generator().manual_seed(start)
        out += part @ torch.empty(part.shape[1], DIM).bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
    return out / DIM**0.5


def loop(work: Workload, extractor: Extractor, sample: Encoded) -> torch.Tensor:
    """The same loop with our sketch."""
    out = extractor.projector.zeros(1)
    for name, g in one_by_one(work, extractor, sample).items():
        extractor.projector.add(out, name, g[None], extractor.direction(name))
    return out


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def speed(work: Workload, tokens: int, rounds: int) -> dict[str, Any]:
    """Milliseconds a row of each, in turns, and the median over rounds of the ratios to the floor of that round."""
    extractor = work.extractor()
    count = 2 * BATCH_TOKENS[tokens] // tokens
    samples = work.samples(tokens, count)
    batches = [samples[: count // 2], samples[count // 2 :]]
    items = [[Item(str(n), "answer", e) for n, e in enumerate(b)] for b in batches]
    pairs = [pairs_of(b[: len(b) // 2]) for b in batches]
    both = [[e for k in (0, 1) for e in (p[k] for p in b)] for b in pairs]
    paired = [[tuple(Item(str(n), r, e) for r, e in zip("ab", p, strict=True)) for n, p in enumerate(b)] for b in pairs]
    few = samples[: max(4, min(16, count // 8))]
    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "floor": (count, lambda: [floor(work, extractor, b) for b in batches]),
        "gradstore": (count, lambda: [extractor.rows(b) for b in items]),
        "pairs_floor": (count, lambda: [floor(work, extractor, b) for b in both]),
        "pairs": (count, lambda: [extractor.pair_rows(b) for b in paired]),
        "loop": (len(few), lambda: [loop(work, extractor, e) for e in few]),
    }
    for _, run in ways.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (rows, run) in ways.items():
            times[name].append(seconds(run) / rows)
    dense = seconds(lambda: less(work, extractor, samples[0]))
    extractor.close()

    def ratio(name: str, to: str) -> float:
        return statistics.median(a / b for a, b in zip(times[name], times[to], strict=True))

    return {
        "model": work.name,
        "tokens": tokens,
        "ms": {n: statistics.median(t) * 1e3 for n, t in times.items()} | {"less": dense * 1e3},
        "to_floor": ratio("gradstore", "floor"),
        "pairs_to_floor": ratio("pairs", "pairs_floor"),
        "loop_to_floor": ratio("loop", "floor"),
        "gain_kept": ratio("loop", "gradstore") / ratio("loop", "floor"),
        "less_times": dense / statistics.median(times["gradstore"]),
        "bytes_a_row": 2 * DIM,
    }


def cosines(rows: torch.Tensor) -> torch.Tensor:
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    return (unit @ unit.T)[torch.triu_indices(len(rows), len(rows), 1).unbind()]


def fidelity(
    work: Workload, tokens: int, vectors: dict[str, list[torch.Tensor]], exact: torch.Tensor
) -> dict[str, Any]:
    """Errors of pairwise cosines against those of the exact plain gradients, over the seeds of each projection."""
    true = cosines(exact)
    found: dict[str, Any] = {"model": work.name, "tokens": tokens, "spread": true.std().item()}
    for name, seeds in vectors.items():
        floats, estimates = seeds[0].shape[1], [cosines(rows) for rows in seeds]
        std = torch.stack([e - true for e in estimates]).std().item()
        correlations = [torch.corrcoef(torch.stack([e, true]))[0, 1].item() for e in estimates]
        found[name] = {
            "floats": floats,
            "std": std,
            "std_x_sqrt_floats": std * floats**0.5,
            "correlation": statistics.mean(correlations),
        }
    return found


def sketches(work: Workload, samples: list[Encoded], sketch: Sketch) -> torch.Tensor:
    extractor = work.extractor("sgd", sketch)
    found = extractor.sketches(samples)[0]  # one batch: a dense matrix is drawn once a batch
    extractor.close()
    return found


def rivals_python(folder: Path) -> Path:
    """The Python of the rivals' environment, made if it is not there. torchvision would break its transformers."""
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making an environment for bergson and TRAK in {folder} …", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "torch==2.13.0"], check=True)
        subprocess.run([*pip, "install", *RIVALS], check=True)
        subprocess.run([*pip, "uninstall", "-y", "torchvision", "torchaudio"], check=True)
    return python


def rival(python: Path, script: str, *arguments: str) -> dict[str, Any]:
    command = [str(python), str(HERE / "rivals" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    lines = done.stdout.strip().splitlines()
    if not lines:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"}
    return json.loads(lines[-1])


def against_rivals(work: Workload, tokens: int, python: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """bergson and TRAK on the same samples: speed beside ours, run just before and after; and everyone's fidelity."""
    count, threads = 64, str(torch.get_num_threads())
    samples = work.samples(tokens, count)
    extractor = work.extractor("sgd")
    batches = [samples[i : i + BATCH_TOKENS[tokens] // tokens] for i in range(0, count, BATCH_TOKENS[tokens] // tokens)]

    def ours() -> float:
        return seconds(lambda: [extractor.sketches(b) for b in batches]) / count

    ours()
    grads = [one_by_one(work, extractor, e) for e in samples]
    exact = torch.stack([torch.cat([g.flatten() for g in each.values()]) for each in grads])
    vectors: dict[str, list[torch.Tensor]] = {
        kind: [sketches(work, samples, Sketch(kind, DIM, seed)) for seed in range(SEEDS)] for kind in KINDS
    }
    result: dict[str, Any] = {"model": work.name, "tokens": tokens}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        work.save(place, samples)
        for target, budgets in (("per_module", (2048,)), ("global", (2048, 16384))):
            best: dict[str, Any] = {}
            for budget in budgets:
                out, before = str(place / f"{target}.npy"), ours()
                options = ("--dim", str(DIM), "--batch-tokens", str(budget), "--threads", threads, "--out", out)
                found = rival(python, "bergson_gradients.py", folder, "--target", target, *options)
                if found.get("error"):
                    best = best or {"error": found["error"]}
                    continue
                each, mine = found["seconds"] / found["samples"], (before + ours()) / 2
                if "ms" not in best or each * 1e3 < best["ms"]:
                    best = {"ms": each * 1e3, "times_ours": each / mine, "peak_mb": found["peak_rss_mb"]}
                    best |= {"floats": found["floats_per_row"], "batch_tokens": budget}
                    vectors[f"bergson {target}"] = [torch.from_numpy(np.load(out))]
            result[f"bergson {target}"] = best
        project = ("--parameters", str(work.parameters), "--rows", str(count), "--dim", str(DIM), "--threads", threads)
        result["TRAK"] = rival(python, "trak_projection.py", *project, "--type", "normal")
    extractor.close()
    if "bergson per_module" in vectors:
        floats = vectors["bergson per_module"][0].shape[1]
        vectors["countsketch, per_module's floats"] = [sketches(work, samples, Sketch(dim=floats))]
    return result, fidelity(work, tokens, vectors, exact)


def peak(name: str, tokens: int, way: str) -> float:
    """Peak resident MB of a process that does one thing."""
    command = [sys.executable, "-W", "ignore", __file__, "--only", way, "--models", name, "--tokens", str(tokens)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def only(way: str, work: Workload, tokens: int) -> None:
    """A few batches in one way, then this process's peak."""
    extractor = work.extractor()
    batch = work.samples(tokens, BATCH_TOKENS[tokens] // tokens)
    for _ in range(3):
        floor(work, extractor, batch) if way == "floor" else extractor.sketches(batch)
    print(peak_bytes(work.loaded.device) / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rivals", type=Path, default=Path("build/rivals"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--models", default=",".join(SHAPES))
    parser.add_argument("--tokens", default="16,64,256")
    parser.add_argument("--rival-tokens", default="64,256")
    parser.add_argument("--only", choices=["floor", "gradstore"], help="print the peak of one way, in a process alone")
    given = parser.parse_args()
    lengths = [int(n) for n in given.tokens.split(",")]
    if given.only:
        only(given.only, Workload.of(given.models), lengths[0])
        return
    results: dict[str, list[Any]] = {"speed": [], "rivals": [], "fidelity": [], "peak": []}
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("\n| model | tokens | floor, ms | gradstore | to floor | pairs to floor | loop to floor | gain kept | LESS |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in given.models.split(","):
        work = Workload.of(name)
        for tokens in lengths:
            found = speed(work, tokens, given.rounds)
            results["speed"].append(found)
            ms, cells = found["ms"], [f"{found[k]:.2f}" for k in ("to_floor", "pairs_to_floor", "loop_to_floor")]
            print(
                f"| {name} | {tokens} | {ms['floor']:.2f} | {ms['gradstore']:.2f} | {' | '.join(cells)} "
                f"| {found['gain_kept']:.0%} | {found['less_times']:.0f}× |",
                flush=True,
            )
    for way in ("floor", "gradstore"):
        results["peak"].append({"way": way, "mb": peak(given.models.split(",")[-1], lengths[-1], way)})
    print("\npeak memory, " + ", ".join(f"{p['way']} {p['mb']:.0f} MB" for p in results["peak"]), flush=True)
    try:
        python = rivals_python(given.rivals)
    except subprocess.CalledProcessError as error:
        print(f"\nbergson and TRAK skipped: their environment could not be made ({error})")
        python = None
    for name in given.models.split(",") if python else ():
        work = Workload.of(name)
        for tokens in map(int, given.rival_tokens.split(",")):
            found, faithful = against_rivals(work, tokens, python)
            results["rivals"].append(found)
            results["fidelity"].append(faithful)
            print(json.dumps(found), json.dumps(faithful), sep="\n", flush=True)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
