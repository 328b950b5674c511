"""Methods × seeds × worlds, resumable: every trial is a JSON file, and what is there is not run again.

A (world, seed) is one unit of work and one process: its store is made once, its variants share it.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from gradstore.errors import InputFileError, SelectionError, mismatch
from gradstore.pipelines import Progress, silent
from gradstore.pipelines.lab.board import board, markdown
from gradstore.pipelines.lab.worlds import World

CONTROL = "random"  # is always run
SECONDS_BETWEEN_LOOKS = 5.0
ANOTHER_FOLDER = "Give another folder, or delete what is of the other settings."


def configuration(path: str | Path | None = None) -> dict[str, Any]:
    """The worlds and variants to compare: scoreboard.toml beside this file, or another."""
    place = Path(path) if path else Path(__file__).with_name("scoreboard.toml")
    try:
        found = tomllib.loads(place.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputFileError(f"{place} cannot be read as a scoreboard's settings: {error}") from error
    if not found.get("worlds") or CONTROL not in found.get("variants", {}):
        raise InputFileError(f"{place} needs [worlds.…] and [variants.…], {CONTROL!r} among them: it is the control")
    return found


def worlds_of(config: Mapping[str, Any], names: Sequence[str], files: Mapping[str, str]) -> list[World]:
    """The worlds called ``names`` (all by default) with the files of questions that were given for them."""
    if unknown := [n for n in names if n not in config["worlds"]]:
        raise InputFileError(f"no world {unknown[0]!r}: there are {', '.join(config['worlds'])}")
    found = []
    for name in names or config["worlds"]:
        world = World(name=name, **config["worlds"][name])
        world = replace(world, learning_rates=tuple(world.learning_rates), file=files.get(name, world.file))
        if world.preset != "qa" and world.file is None:
            raise InputFileError(f"the world {name} is made of a file of questions: say where with --data {name}=FILE")
        found.append(world)
    return found


def variants_of(config: Mapping[str, Any], names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """The control and the variants called ``names``, by default the standard ones, or all where none are standard."""
    table = config["variants"]
    wanted = dict.fromkeys((CONTROL, *(names or config.get("standard") or table)))
    if unknown := [name for name in wanted if name not in table]:
        raise InputFileError(f"no variant {unknown[0]!r}: there are {', '.join(table)}")
    return {name: table[name] for name in wanted}


def run(
    folder: str | Path,
    worlds: Sequence[World],
    seeds: Sequence[int],
    variants: Mapping[str, Mapping[str, Any]],
    *,
    workers: int = 2,
    progress: Progress = silent,
) -> list[Path]:
    """Run what is missing of worlds × seeds × variants; returns the record of every trial."""
    folder = Path(folder)
    (folder / "trials").mkdir(parents=True, exist_ok=True)
    _check_same(folder, worlds, seeds, variants)
    for world in worlds:  # models first, so that no two processes make the same one
        for number in sorted({seed // 100 for seed in seeds}):
            _apart(_make_model, [(world, number * 100, folder)], lambda: progress("models", 0, 1))
    wanted = [
        (world, seed, {n: v for n, v in variants.items() if not trial_path(folder, world.name, n, seed).exists()})
        for world in worlds
        for seed in seeds
    ]
    units = [(world, seed, missing, folder) for world, seed, missing in wanted if missing]
    paths = [trial_path(folder, w.name, n, s) for w in worlds for s in seeds for n in variants]
    _apart(_unit, units, lambda: progress("trials", sum(p.exists() for p in paths), len(paths)), workers)
    return paths


def _check_same(
    folder: Path, worlds: Sequence[World], seeds: Sequence[int], variants: Mapping[str, Mapping[str, Any]]
) -> None:
    """Refuse to go on with what other settings left in ``folder``: trials of two settings must not share a table."""
    for world in worlds:
        asked = json.loads(json.dumps({k: v for k, v in asdict(world).items() if k != "file"}))
        place = folder / "trials" / f"{world.name}.world.json"
        if not place.exists():
            write_json(place, asked)
        before = json.loads(place.read_text(encoding="utf-8"))
        if before != asked:
            raise InputFileError(mismatch(f"{place} and the world asked for", asked, before, ANOTHER_FOLDER))
        for path, variant in ((trial_path(folder, world.name, n, s), v) for s in seeds for n, v in variants.items()):
            found = json.loads(path.read_text(encoding="utf-8")).get("asked", {}) if path.exists() else variant
            if found != variant:
                what = f"{path} and the variant asked for"
                raise InputFileError(mismatch(what, dict(variant), dict(found), ANOTHER_FOLDER))


def trial_path(folder: Path, world: str, variant: str, seed: int) -> Path:
    return folder / "trials" / f"{world}-{seed}-{variant}.json"


def initial_path(folder: Path, world: str, seed: int) -> Path:
    return folder / "trials" / f"{world}-{seed}.initial.json"


def _make_model(world: World, seed: int, folder: Path) -> None:
    from gradstore.pipelines.lab.worlds import model_of

    model_of(world, seed, folder)


def _unit(world: World, seed: int, variants: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """All missing variants of one (world, seed)."""
    from gradstore.pipelines.lab import trials

    measured = trials.measure(world, seed, folder)
    at = initial_path(folder, world.name, seed)
    if not at.exists():
        write_json(at, trials.initial(measured.store, world, measured.model))
    before = json.loads(at.read_text())["verdicts"]["basic"]
    if useless := [part for part, verdicts in before.items() if not {"c", "w"} <= set(verdicts)]:
        raise SelectionError(
            f"the model of {world.name}-{seed} answers all or none of its {' and '.join(useless)} questions, so THS or "
            "over-refusal is undefined: give the world more questions, or other steps of pretraining"
        )
    place = folder / "stores" / f"{world.name}-{seed}"
    for name, variant in variants.items():
        try:
            record = trials.run_trial(measured, world, name, variant, before, place)
        except SelectionError as error:  # a method that cannot choose here is a result, not a crash
            record = {"world": world.name, "seed": seed, "variant": name, "failed": str(error)}
        write_json(trial_path(folder, world.name, name, seed), record | {"asked": variant})


def write_json(path: Path, value: Any) -> None:
    """A whole file or none."""
    partial_ = path.with_name(path.name + ".partial")
    partial_.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
    partial_.rename(path)


def _apart(task: Callable[..., None], jobs: Sequence[tuple], tell: Callable[[], None], workers: int = 1) -> None:
    """Run jobs in processes of their own, one thread each: small models only wait for a second thread."""
    if not jobs:
        return
    threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1") | {"TOKENIZERS_PARALLELISM": "false"}
    kept = {name: os.environ.get(name) for name in threads}
    os.environ.update(threads)
    try:
        with ProcessPoolExecutor(max_workers=workers, mp_context=get_context("spawn")) as pool:
            waiting = {pool.submit(partial(task, *job)) for job in jobs}
            try:
                while waiting:
                    done, waiting = wait(waiting, timeout=SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
                    tell()
            except BaseException:  # one failed, or Ctrl-C: what has not begun is not begun
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        for name, value in kept.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def scoreboard(folder: str | Path, paths: Iterable[Path], candidate: str, figures: bool = True) -> dict[str, Any]:
    """Write board.json, board.md and the figures of trials to ``folder``; returns the board."""
    from gradstore.report.frontiers import write_figures

    folder, found = Path(folder), board(read(paths), candidate)
    write_json(folder / "board.json", found)
    (folder / "board.md").write_text(markdown(found), encoding="utf-8")
    if figures:
        write_figures(found, folder)
    return found


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The records of trials, those that failed included."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]
