"""Trials → the scoreboard: means over seeds, paired differences, frontiers. Its table in Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from gradstore.evaluation.comparison import frontier_area, holm, paired_over_seeds

SHOWN = ("ths", "correct", "wrong", "refused", "over_refusal", "fixed", "area")
COVERED = ("coverage", "redundancy", "mean_gap", "mean_cosine")
Trials = Mapping[tuple[str, str], Mapping[int, Mapping[str, Any]]]  # (world, variant) → seed → trial


def board(records: Sequence[Mapping[str, Any]], candidate: str) -> dict[str, Any]:
    """The scoreboard of trial records.

    ``rows``: one a (world, variant) with mean and ``<metric>_sd`` (n−1) over its seeds, at the learning rate with the
    best THS on *validation*; numbers are of the test split. ``comparisons``: the candidate less every other variant, on
    the seeds that both have; p of those against the literature and the control are adjusted together (Holm), over all
    worlds.
    """
    trials: dict[tuple[str, str], dict[int, Any]] = defaultdict(dict)
    for record in records:
        if "failed" not in record:
            trials[record["world"], record["variant"]][record["seed"]] = {**record, "at": chosen(record)}
    rows = [_row(world, variant, of_seed) for (world, variant), of_seed in trials.items()]
    failed = [{k: r[k] for k in ("world", "variant", "seed", "failed")} for r in records if "failed" in r]
    return {
        "candidate": candidate,
        "rows": sorted(rows, key=lambda r: (r["world"], -(r["ths"] or -9))),
        "comparisons": _comparisons(trials, candidate),
        "failed": failed,
    }


def chosen(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a trial comes to: its test numbers at the strength that validation prefers, and its frontier's area.

    The first of equals is the weakest. A world whose initial model makes no mistake has no THS and is refused before.
    """
    looks = record["looks"]
    best = max(range(len(looks)), key=lambda i: (looks[i]["validation"]["ths"], -i))
    points = [(look["test"]["over_refusal"], look["test"]["fixed"]) for look in looks]
    return {
        **looks[best]["test"],
        "learning_rate": looks[best]["learning_rate"],
        "area": frontier_area(points),
        "points": points,
    }


def _row(world: str, variant: str, of_seed: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    found = [of_seed[seed] for seed in sorted(of_seed)]
    row: dict[str, Any] = {"world": world, "variant": variant, "from": found[0]["from"], "seeds": sorted(of_seed)}
    for name in SHOWN:
        values = [f["at"][name] for f in found]
        row[name] = float(np.mean(values))
        row[f"{name}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    row["each"] = {str(seed): of_seed[seed]["at"]["ths"] for seed in sorted(of_seed)}
    row["learning_rates"] = [f["at"]["learning_rate"] for f in found]
    row["frontier"] = np.mean([f["at"]["points"] for f in found], axis=0).tolist()
    row["effective_size"] = np.mean([f["effective_size"] for f in found], axis=0).tolist()
    row["weight"] = float(np.mean([f["weight"] for f in found]))
    for name in COVERED:
        values = [f["picked"][name] for f in found if name in f["picked"]]
        row[name] = float(np.mean(values)) if values else None
    row["unknown_exposure"] = _mean_shares([f["picked"]["exposure"].get("unknown", {}) for f in found])
    row["seconds"] = float(np.mean([f["seconds"]["all"] for f in found]))
    return row


def _mean_shares(shares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = sorted({name for each in shares for name in each})
    return {name: float(np.mean([each.get(name, 0.0) for each in shares])) for name in names}


def _comparisons(trials: Trials, candidate: str) -> list[dict[str, Any]]:
    found = []
    for (world, variant), theirs in sorted(trials.items()):
        ours = trials.get((world, candidate), {})
        seeds = sorted(set(theirs) & set(ours))
        if variant == candidate or not seeds:
            continue
        for metric in ("ths", "area"):
            pair = ([of[s]["at"][metric] for s in seeds] for of in (theirs, ours))
            source = next(iter(theirs.values()))["from"]
            found.append(
                {"world": world, "other": variant, "from": source, "metric": metric, "seeds": seeds}
                | asdict(paired_over_seeds(*pair))
            )
    family = {
        f"{c['world']} {c['other']}": c["p"]
        for c in found
        if c["metric"] == "ths" and c["from"] != "ours" and c["p"] is not None
    }
    adjusted = holm(family)
    for c in found:
        inside = c["metric"] == "ths" and c["from"] != "ours"
        c["p_holm"] = adjusted.get(f"{c['world']} {c['other']}") if inside else None
    return found


def markdown(found: Mapping[str, Any]) -> str:
    """The board as Markdown tables: one a world, then the candidate's differences."""
    parts = []
    for world in dict.fromkeys(r["world"] for r in found["rows"]):
        rows = [r for r in found["rows"] if r["world"] == world]
        parts.append(f"### {world}\n")
        parts += _head(
            "method", "from", "THS", "P_c", "P_w", "P_r", "over-refusal", "unknowns refused", "area", "seeds"
        )
        for r in rows:
            cells = " | ".join(_cell(r, name) for name in SHOWN)
            parts.append(f"| {r['variant']} | {r['from']} | {cells} | {len(r['seeds'])} |")
        parts.append("")
    parts.append(f"### {found['candidate']} less each other method: difference [95 % interval]\n")
    parts += _head("world", "other", "from", "THS", "p", "p (Holm)", "frontier area", "seeds")
    areas = {(c["world"], c["other"]): c for c in found["comparisons"] if c["metric"] == "area"}
    for c in (c for c in found["comparisons"] if c["metric"] == "ths"):
        numbers = f"{_interval(c)} | {_p(c['p'])} | {_p(c['p_holm'])} | {_interval(areas[c['world'], c['other']])}"
        parts.append(f"| {c['world']} | {c['other']} | {c['from']} | {numbers} | {c['n']} |")
    for f in found["failed"]:
        parts.append(f"\n{f['world']}, seed {f['seed']}: {f['variant']} could not choose: {f['failed']}")
    return "\n".join(parts) + "\n"


def _head(*names: str) -> list[str]:
    return ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]


def _cell(row: Mapping[str, Any], name: str) -> str:
    spread = row[f"{name}_sd"]
    return f"{row[name]:.3f}" + (f" ± {spread:.3f}" if spread is not None else "")


def _interval(c: Mapping[str, Any]) -> str:
    return f"{c['mean']:+.3f}" + (f" [{c['low']:+.3f}, {c['high']:+.3f}]" if c["low"] is not None else "")


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
