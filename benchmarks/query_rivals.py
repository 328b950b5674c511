"""FAISS and bergson on the same vectors, each in an environment of its own, in turns with ours."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import query_world as world
from query_memory import Rows

from gradstore.kernels.half import dot

HERE = Path(__file__).parent
FAISS = "faiss-cpu==1.15.1"


class Rival:
    """A rival's process, in its own environment, that runs once for each line it is sent."""

    def __init__(self, python: Path, way: str, vectors: Path, targets: Path, threads: int) -> None:
        command = [str(python), str(HERE / "rivals" / "query_scores.py"), way, str(vectors), str(targets)]
        self.process = subprocess.Popen(
            [*command, "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if self.process.stdout.readline().strip() != "ready":
            raise RuntimeError((self.process.stderr.read().strip().splitlines() or ["it ended"])[-1])

    def run(self) -> float:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def faiss_python(folder: Path) -> Path:
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "--quiet", "install", FAISS], check=True)
    return python


def rivals(given: argparse.Namespace, rows: Rows, work: Path) -> list[dict[str, Any]]:
    """(d) and (e) on the same vectors, in turns with our scores."""
    np.save(work / "vectors.npy", rows.held)
    np.save(work / "targets.npy", rows.means.astype(np.float32))
    from extraction import rivals_python  # it needs torch, which the rest does not

    results, threads = [], given.threads
    ways = [("faiss", faiss_python, given.faiss), ("faiss-fp16", faiss_python, given.faiss)]
    ways += [("bergson", rivals_python, given.bergson), ("bergson-float32", rivals_python, given.bergson)]
    for way, python_of, folder in ways:
        try:
            rival = Rival(python_of(folder), way, work / "vectors.npy", work / "targets.npy", threads)
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            results.append({"way": way, "rows": len(rows.held), "error": str(error)})
            continue
        times: dict[str, list[float]] = {"rival": [], "scores": [], "kernels": []}
        rival.run()
        for _ in range(given.rounds):
            times["rival"].append(rival.run())
            times["scores"].append(world.seconds(lambda: dot(rows.bits, rows.means)))
            times["kernels"].append(world.seconds(rows.kernels))
        rival.close()
        to = {f"to_{name}": world.ratio(times, "rival", name) for name in ("scores", "kernels")}
        results.append({"way": way, "rows": len(rows.held), "seconds": world.medians(times), **to})
    return results
