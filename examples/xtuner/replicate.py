"""Turn weights into whole copies, for a trainer that knows no weights: xtuner 0.2.0.

    python replicate.py out/xtuner/grait.json replicated.json --copies 3

A row of weight w is to stand about w · copies times in the output, and one epoch of that is as long as ``--copies``
epochs of unit weights. Two ways to make w · copies whole, both deterministic, and both of total round(copies · Σ w)
(the stochastic one may miss it by one, where that is not whole), and without a copy of weight 0:

    largest      largest remainder (Hamilton): round down, then one more to the rows that lost most; the nearest
                 whole numbers there are, but a small weight always loses
    stochastic   systematic sampling (Madow 1949) of the remainders: each row has w · copies copies on average

What it prints says how far the copies are from the weights. A weight is exact only as the resolution grows; a step
divides by its number of copies, not of rows, so the mean weight is lost where it is not 1.
"""

import argparse
import json
import math
import random
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

METHODS = ("largest", "stochastic")


class ReplicateError(Exception):
    """What the user can set right; its text is all that is printed."""


def largest_remainder(weights: Sequence[float], copies: int) -> list[int]:
    """Whole numbers nearest to w · copies whose sum is round(copies · Σ w); ties go to the earlier row."""
    wanted = [Fraction(w) * copies for w in weights]
    whole = [math.floor(t) for t in wanted]
    missing = round(sum(wanted)) - sum(whole)
    order = sorted(range(len(wanted)), key=lambda i: whole[i] - wanted[i])  # stable: largest remainder first
    for i in order[:missing]:
        whole[i] += 1
    return whole


def stochastic(weights: Sequence[float], copies: int, seed: int) -> list[int]:
    """Whole numbers of mean w · copies: how many of the points u, u + 1, … fall on the row's stretch of the sum."""
    edge, made = Fraction(random.Random(seed).random()), []
    for weight in weights:
        following = edge + Fraction(weight) * copies
        made.append(math.floor(following) - math.floor(edge))
        edge = following
    return made


def replicate(weights: Sequence[float], copies: int, method: str = "largest", seed: int = 0) -> list[int]:
    """How often each row is to stand in the output."""
    if copies < 1:
        raise ReplicateError(f"--copies {copies}: expected a whole number of 1 or more, the copies of weight 1.")
    bad = [w for w in weights if not (isinstance(w, int | float) and math.isfinite(w) and w >= 0)]
    if bad or not any(weights):
        what = (
            f"{len(bad)} of {len(weights)} weights are no finite numbers >= 0, first {bad[0]!r}" if bad else "none > 0"
        )
        raise ReplicateError(f"Weights cannot be copied, {what}: export the selection again.")
    made = largest_remainder(weights, copies) if method == "largest" else stochastic(weights, copies, seed)
    if not any(made):
        raise ReplicateError(f"--copies {copies} is too coarse: no row gets a copy. Pass a larger number.")
    return made


def distance(weights: Sequence[float], made: Sequence[int]) -> dict[str, float]:
    """How far copies are from weights: as shares of their sums, so that the scale does not count."""
    asked, got = [w / math.fsum(weights) for w in weights], [n / sum(made) for n in made]
    return {
        "copies": sum(made),
        "total_variation": math.fsum(abs(a - g) for a, g in zip(asked, got, strict=True)) / 2,  # 0 to 1
        "weighted_rows_lost": sum(w > 0 and n == 0 for w, n in zip(weights, made, strict=True)),
        "ess_of_weights": 1 / math.fsum(a * a for a in asked),  # (Σw)² / Σw² (Kish)
        "ess_of_copies": 1 / math.fsum(g * g for g in got),
    }


def read(path: Path) -> tuple[list[dict], list[float]]:
    """The rows of an exported grait.json and the weight of each, its ``alpha``."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return rows, [row["conversation"][0]["alpha"] for row in rows]
    except (OSError, ValueError) as error:
        raise ReplicateError(f"{path} cannot be read ({error}): pass the grait.json of an export to xtuner.") from None
    except (KeyError, IndexError, TypeError):
        raise ReplicateError(
            f"{path} has rows without conversation[0].alpha, their weight: pass grait.json of an export to xtuner, "
            "not plain.json, which has none."
        ) from None


def plain(row: dict) -> dict:
    """The row as ``plain.json`` has it: no alpha, no beta."""
    turns = [{k: v for k, v in turn.items() if k not in ("alpha", "beta")} for turn in row["conversation"]]
    return {**row, "conversation": turns}


def main(argv: list[str] | None = None) -> int:
    """Run as a command: write the copies, shuffled by the seed, and print how far they are from the weights."""
    parser = argparse.ArgumentParser(description="Write weighted rows as whole copies.")
    parser.add_argument("data", type=Path, help="grait.json of an export to xtuner")
    parser.add_argument("out", type=Path, help="the file to write; not in the export's folder, which stays as it is")
    parser.add_argument("--copies", type=int, default=3, help="of a row of weight 1 (default 3): the resolution")
    parser.add_argument("--method", choices=METHODS, default="largest")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    try:
        rows, weights = read(given.data)
        made = replicate(weights, given.copies, given.method, given.seed)
        copied = [plain(row) for row, n in zip(rows, made, strict=True) for _ in range(n)]
        random.Random(given.seed).shuffle(copied)
        given.out.write_text(json.dumps(copied, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    except (ReplicateError, OSError) as error:
        print(f"replicate.py: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"rows": len(rows), **distance(weights, made)}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
