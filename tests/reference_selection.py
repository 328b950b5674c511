"""Plainly slow twins of the selection room, written from the papers' formulas: Python loops over float64.

Nothing of gradstore is imported. A candidate is a dict (a row of the frame that ``select`` takes); a vector is a list
of floats; a ranking is a list of positions or ids, best first. Candidates come in the order of a seeded hash, and the
first of equals wins. Where a twin and its module differ, believe neither: read the formula again.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

Vector = Sequence[float]
Row = Mapping[str, Any]


def inner(a: Vector, b: Vector) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def mean_vector(rows: Sequence[Vector]) -> list[float]:
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


def in_hash_order(rows: Iterable[Row], seed: int) -> list[Row]:
    return sorted(rows, key=lambda r: hashlib.sha256(f"{seed}:{r['sample_id']}".encode()).hexdigest())


def first_largest(open_: Iterable[int], score: Callable[[int], float]) -> int:
    """max takes the first of equals."""
    return max(open_, key=score)


# -- greedy rules over gradients -------------------------------------------------------------------------------


def herding(rows: Sequence[Vector], count: int, target: Vector | None = None) -> list[int]:
    """Welling 2009, Chen et al. 2010 eq. 4–5: w₀ = μ, x_t = argmax <w, x>, w ← w + μ − x_t; nobody is picked twice."""
    mu = list(mean_vector(rows) if target is None else target)
    w, picked = list(mu), []
    while len(picked) < min(count, len(rows)):
        score = [inner(w, x) for x in rows]
        best = first_largest([i for i in range(len(rows)) if i not in picked], score.__getitem__)
        picked.append(best)
        w = [a + m - x for a, m, x in zip(w, mu, rows[best], strict=True)]
    return picked


def facility_value(rows: Sequence[Vector], chosen: Sequence[int]) -> float:
    """F(S) = Σ_i max_{j∈S} (1 + <x_i, x_j>)/2; F(∅) = 0 (CRAIG, Mirzasoleiman et al. 2020, eq. 8)."""
    return math.fsum(max(((1 + inner(x, rows[j])) / 2 for j in chosen), default=0.0) for x in rows)


def facility(rows: Sequence[Vector], count: int) -> tuple[list[int], list[float]]:
    """Plain greedy over the full matrix: every gain anew at every pick. Positions, and gains."""
    similar = [[(1 + inner(a, b)) / 2 for b in rows] for a in rows]
    covered, picked, gains = [0.0] * len(rows), [], []
    while len(picked) < min(count, len(rows)):
        gain = {
            j: math.fsum(max(similar[i][j] - covered[i], 0.0) for i in range(len(rows)))
            for j in range(len(rows))
            if j not in picked
        }
        best = first_largest(gain, gain.__getitem__)
        picked.append(best)
        gains.append(gain[best])
        covered = [max(c, similar[i][best]) for i, c in enumerate(covered)]
    return picked, gains


def solved(matrix: Sequence[Vector], right: Vector) -> list[float]:
    """Gauss with pivoting: x with matrix · x = right."""
    rows, n = [[*row, r] for row, r in zip(matrix, right, strict=True)], len(right)
    for c in range(n):
        pivot = max(range(c, n), key=lambda i, c=c: abs(rows[i][c]))
        rows[c], rows[pivot] = rows[pivot], rows[c]
        for i in range(c + 1, n):
            factor = rows[i][c] / rows[c][c]
            rows[i] = [x - factor * y for x, y in zip(rows[i], rows[c], strict=True)]
    x = [0.0] * n
    for i in reversed(range(n)):
        x[i] = (rows[i][n] - math.fsum(rows[i][j] * x[j] for j in range(i + 1, n))) / rows[i][i]
    return x


def nonnegative(rows: Sequence[Vector], target: Vector, ridge: float) -> list[float]:
    """argmin_w ‖Σ w_i x_i − target‖² + ridge ‖w‖², w ≥ 0: the active sets of Lawson & Hanson 1974, to the end."""
    n = len(rows)
    gram = [[inner(a, b) + (ridge if i == j else 0.0) for j, b in enumerate(rows)] for i, a in enumerate(rows)]
    toward = [inner(x, target) for x in rows]
    w, free = [0.0] * n, list[int]()
    while True:
        uphill = {i: toward[i] - inner(gram[i], w) for i in range(n) if i not in free}
        best = max(uphill, key=uphill.__getitem__, default=None)
        if best is None or uphill[best] <= 1e-13:
            return w
        free = sorted([*free, best])
        while True:
            found = solved([[gram[i][j] for j in free] for i in free], [toward[i] for i in free])
            if min(found) > 0:
                w = [0.0] * n
                for i, x in zip(free, found, strict=True):
                    w[i] = x
                break
            step = min(w[i] / (w[i] - x) for i, x in zip(free, found, strict=True) if x <= 0)
            for i, x in zip(free, found, strict=True):
                w[i] += step * (x - w[i])
            free = [i for i, x in zip(free, found, strict=True) if x > 0 or w[i] > 1e-15]


def matching_error(rows: Sequence[Vector], weights: Sequence[float], target: Vector, ridge: float) -> float:
    """‖Σ w_i x_i − target‖² + ridge ‖w‖² (GradMatch, Killamsetty et al. 2021, eq. 3)."""
    made = [math.fsum(w * x for w, x in zip(weights, column, strict=True)) for column in zip(*rows, strict=True)]
    off = [m - t for m, t in zip(made, target, strict=True)]
    return inner(off, off) + ridge * inner(weights, weights)


def matching_scores(rows: Sequence[Vector], picked: Sequence[int], target: Vector, ridge: float) -> list[float]:
    """<residual, x_i> of every row after the best fit of those picked (GradMatch Alg. 2, line 4)."""
    weights = nonnegative([rows[i] for i in picked], target, ridge)
    made = [math.fsum(w * rows[i][d] for w, i in zip(weights, picked, strict=True)) for d in range(len(target))]
    residual = [t - m for t, m in zip(target, made, strict=True)]
    return [inner(residual, x) for x in rows]


def matching(rows: Sequence[Vector], count: int, ridge: float) -> list[int]:
    """Orthogonal matching pursuit (GradMatch Alg. 2): the largest product with the residual, then a new fit."""
    target, picked = mean_vector(rows), []
    while len(picked) < min(count, len(rows)):
        score = matching_scores(rows, picked, target, ridge)
        picked.append(first_largest([i for i in range(len(rows)) if i not in picked], score.__getitem__))
    return picked


def hard(refusals_of_known: Sequence[Vector], refusals_of_chosen: Sequence[Vector]) -> list[int]:
    """Knowns by mean <refusal of the known, refusal of a chosen unknown>: from all pairs."""
    score = [math.fsum(inner(x, c) for c in refusals_of_chosen) for x in refusals_of_known]
    return sorted(range(len(score)), key=lambda i: -score[i])  # sorted is stable


# -- rules of one number ---------------------------------------------------------------------------------------


def number(x: float | None) -> float | None:
    return None if x is None or math.isnan(x) else float(x)


def ranked(rows: Sequence[Row], *keys: Callable[[Row], float | None]) -> list[str]:
    """Ids by the first key, smallest first, then by the second, …; None after every number. ``sorted`` is stable."""
    values = {r["sample_id"]: [key(r) for key in keys] for r in rows}
    ordered = sorted(rows, key=lambda r: [(v is None, 0.0 if v is None else v) for v in values[r["sample_id"]]])
    return [r["sample_id"] for r in ordered]


def down(column: str) -> Callable[[Row], float | None]:
    return lambda r: None if number(r[column]) is None else -float(r[column])


def up(column: str) -> Callable[[Row], float | None]:
    return lambda r: number(r[column])


def influence_gap(penalty: float) -> Callable[[Row], float | None]:
    """−(I_ref − λ I_over)."""

    def key(row: Row) -> float | None:
        ref, over = number(row["i_ref"]), number(row["i_over"])
        return None if ref is None or over is None else -(ref - penalty * over)

    return key


def stability(row: Row) -> float | None:
    """−mean/std over the looks, std with n − 1; one look says nothing of spread."""
    each = row["i_ref_each"]
    if each is None or len(each) < 2:
        return None
    mean = math.fsum(each) / len(each)
    std = math.sqrt(math.fsum((x - mean) ** 2 for x in each) / (len(each) - 1))
    if std > 0:
        return -mean / std
    return None if mean == 0 else -math.copysign(math.inf, mean)


def fell(row: Row) -> bool:
    """Rehearsal made it worse (CRaFT Alg. 1, line 8: D_idk^1 = {μ < τ, Δμ < 0})."""
    return row["flow"] is not None and row["flow"] < 0


RANKINGS: dict[str, Callable[[Sequence[Row], float], list[str]]] = {
    "random": lambda rows, penalty: ranked(rows),
    "top-correct": lambda rows, penalty: ranked(rows, down("correctness"), down("certainty")),
    "most-certain": lambda rows, penalty: ranked(rows, down("certainty"), down("correctness")),
    "least-certain": lambda rows, penalty: ranked(rows, up("certainty"), up("correctness")),
    "i-ref": lambda rows, penalty: ranked(rows, down("i_ref"), up("certainty")),
    "i-ref-minus-i-over": lambda rows, penalty: ranked(rows, influence_gap(penalty), up("certainty")),
    "stable": lambda rows, penalty: ranked(rows, stability, down("i_ref")),
    "target": lambda rows, penalty: ranked(rows, down("target")),
    "least-certain-falling": lambda rows, penalty: RANKINGS["least-certain"](list(filter(fell, rows)), penalty),
    "random-falling": lambda rows, penalty: ranked(list(filter(fell, rows))),
    # the released code
    "first-most-correct": lambda rows, penalty: ranked(rows, down("correctness"), up("ordinal")),
    "last": lambda rows, penalty: ranked(rows, down("ordinal"))[:1],
}


# -- sides -----------------------------------------------------------------------------------------------------


def by_correctness(rows: Sequence[Row], threshold: float, boundary: str) -> dict[str, list[Row]]:
    """CRaFT Alg. 1: known where μ ≥ τ; the released GRAIT drops μ = τ."""
    sides: dict[str, list[Row]] = {"known": [], "unknown": []}
    for row in rows:
        level = row["correctness"]
        if level is None or (level == threshold and boundary == "drop"):
            continue
        known = level > threshold or (level == threshold and boundary == "known")
        sides["known" if known else "unknown"].append(row)
    return sides


def by_entropy(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """R-Tuning-U: sorted by entropy, the lower half is sure, the upper half unsure."""
    ordered = sorted((r for r in rows if r["entropy"] is not None), key=lambda r: r["entropy"])
    half = math.ceil(len(ordered) / 2)
    known = {r["sample_id"] for r in ordered[:half]}
    unknown = {r["sample_id"] for r in ordered[half:]}
    sides = {"known": known, "unknown": unknown}
    return {side: [r for r in rows if r["sample_id"] in ids] for side, ids in sides.items()}


def craft(rows: Sequence[Row], threshold: float, known: int, unknown: int) -> tuple[list[str], list[str]]:
    """CRaFT Alg. 1 as printed: flow, then σ; the N_van most certain of μ ≥ τ, the N_idk least certain of the fallen."""
    d_van = [r for r in rows if r["correctness"] >= threshold]
    d_idk = [r for r in rows if r["correctness"] < threshold and r["flow"] is not None and r["flow"] < 0]
    d_van.sort(key=lambda r: (-r["certainty"], -r["correctness"]))
    d_idk.sort(key=lambda r: (r["certainty"], r["correctness"]))
    return [r["sample_id"] for r in d_van[:known]], [r["sample_id"] for r in d_idk[:unknown]]


def corcer(rows: Sequence[Row], threshold: float, known: int, unknown: int) -> tuple[list[str], list[str]]:
    """CorCer-RAIT, CRaFT without the flow: the same two sorts over all of each side."""
    return craft([{**r, "flow": -1.0} for r in rows], threshold, known, unknown)


# -- quotas ----------------------------------------------------------------------------------------------------


def merged(rankings: Mapping[str, Sequence[str]], sizes: Mapping[str, int], count: int) -> list[str]:
    """D'Hondt: seat by seat to the stratum with the largest size/(seats + 1); the first by name of equals."""
    seats = dict.fromkeys(rankings, 0)
    out: list[str] = []
    while len(out) < count:
        open_ = sorted(name for name in rankings if seats[name] < len(rankings[name]))
        if not open_:
            break
        best, quotient = open_[0], sizes[open_[0]] / (seats[open_[0]] + 1)
        for name in open_[1:]:
            if sizes[name] / (seats[name] + 1) > quotient:
                best, quotient = name, sizes[name] / (seats[name] + 1)
        out.append(rankings[best][seats[best]])
        seats[best] += 1
    return out


def farthest_first(rows: Sequence[Vector], count: int) -> list[int]:
    """Row 0, then always the row whose nearest centre is farthest (Gonzalez 1985), by cosine."""
    centres = [0]
    while len(centres) < min(count, len(rows)):
        nearest = [max(inner(x, rows[c]) for c in centres) for x in rows]
        centres.append(min(range(len(rows)), key=nearest.__getitem__))
    return centres


def clusters(rows: Sequence[Vector], count: int, rounds: int = 25) -> list[int]:
    """Spherical k-means (Dhillon & Modha 2001) from that start: assign by largest product, centres of unit norm."""
    centres = [list(rows[c]) for c in farthest_first(rows, count)]
    labels: list[int] = []
    for _ in range(rounds):
        new = [max(range(len(centres)), key=lambda c, x=x: inner(x, centres[c])) for x in rows]
        if new == labels:
            break
        labels = new
        for c in range(len(centres)):
            members = [x for x, label in zip(rows, labels, strict=True) if label == c]
            total = [math.fsum(column) for column in zip(*members, strict=True)]
            norm = math.sqrt(inner(total, total)) if total else 0.0
            centres[c] = [t / norm for t in total] if norm > 0 else centres[c]
    return labels


# -- LESS (Xia et al. 2024, §3) --------------------------------------------------------------------------------


def less_scores(
    train: Mapping[str, Mapping[str, Vector]],
    target: Mapping[str, Mapping[str, Sequence[Vector]]],
    rates: Mapping[str, float],
) -> dict[str, float]:
    """max over subtasks of Σ_c η_c mean_{z'∈subtask} <Γ(z), ∇(z')>, η scaled to sum 1.

    ``train``: checkpoint → id → feature; ``target``: checkpoint → subtask → gradients. Only ids of every checkpoint.
    """
    total = math.fsum(rates.values())
    everywhere = set.intersection(*(set(rows) for rows in train.values()))
    found = {}
    for i in everywhere:
        best = -math.inf
        for subtask in next(iter(target.values())):
            score = 0.0
            for checkpoint, rate in rates.items():
                gradients = target[checkpoint][subtask]
                mean = math.fsum(inner(train[checkpoint][i], g) for g in gradients) / len(gradients)
                score += rate / total * mean
            best = max(best, score)
        found[i] = best
    return found


# -- weights ---------------------------------------------------------------------------------------------------


def scaled(shares: Sequence[float], total: float) -> list[float]:
    mass = math.fsum(shares)
    return [total * s / mass if mass > 0 else total / len(shares) for s in shares]


def knowledge_weights(levels: Sequence[float], known: bool) -> list[float]:
    """KWT (arXiv 2604.05779): μ of what is known, 1 − μ of what is not, to mean 1."""
    return scaled([m if known else 1 - m for m in levels], len(levels))


def cluster_sizes(rows: Sequence[Vector], chosen: Sequence[Vector]) -> list[int]:
    """CRAIG: how many rows each chosen one is the nearest of; the first of equals."""
    counts = [0] * len(chosen)
    for x in rows:
        counts[max(range(len(chosen)), key=lambda c, x=x: inner(x, chosen[c]))] += 1
    return counts


def mean_error(rows: Sequence[Vector], weights: Sequence[float], target: Vector) -> float:
    return matching_error(rows, weights, target, 0.0)


def optimality_gap(rows: Sequence[Vector], weights: Sequence[float], target: Vector) -> float:
    """An upper bound of f(w) − min f, f = ‖Σ w_i x_i − target‖², over w ≥ 0, Σ w = 1 (Jaggi 2013, the duality gap)."""
    made = [math.fsum(w * x for w, x in zip(weights, column, strict=True)) for column in zip(*rows, strict=True)]
    off = [2 * (m - t) for m, t in zip(made, target, strict=True)]
    gradient = [inner(off, x) for x in rows]
    return math.fsum(w * g for w, g in zip(weights, gradient, strict=True)) - min(gradient)


def mean_matching(rows: Sequence[Vector], target: Vector, gap: float = 1e-12) -> list[float]:
    """min ‖Σ w_i x_i − target‖², w ≥ 0, Σ w = 1: weight is moved from the steepest to the flattest, exactly, again.

    Pairwise Frank-Wolfe with exact line search, until the duality gap certifies the optimum.
    """
    w = [1.0 / len(rows)] * len(rows)
    for _ in range(200_000):
        made = [math.fsum(a * x for a, x in zip(w, column, strict=True)) for column in zip(*rows, strict=True)]
        off = [m - t for m, t in zip(made, target, strict=True)]
        gradient = [inner(off, x) for x in rows]
        low = min(range(len(w)), key=gradient.__getitem__)
        high = max((i for i in range(len(w)) if w[i] > 0), key=gradient.__getitem__)
        if 2 * (math.fsum(a * g for a, g in zip(w, gradient, strict=True)) - gradient[low]) < gap:
            return w
        direction = [a - b for a, b in zip(rows[low], rows[high], strict=True)]
        length = inner(direction, direction)
        step = min(w[high], -inner(off, direction) / length if length else 0.0)
        w[low], w[high] = w[low] + step, w[high] - step
    raise AssertionError("no convergence")


# -- the released codes (opendatalab/GRAIT @2be8d64, opendatalab/CRaFT @c05c50e, shizhediao/R-Tuning @27e0384) -----


def grait_released(
    known: Sequence[Row], unknown: Sequence[Row], n_known: int, n_unknown: int, refusal: Mapping, answer: Mapping
) -> tuple[list[str], list[str]]:
    """construct_grait_data.py, top to bottom: ``refusal`` and ``answer`` map an id to its vector.

    van_table: the largest μ, a stable sort of the file. idk: s_j = Σ_v <u_j, v_v>; take argmax, s_j += <u_j, u_best>;
    then the picks are forgotten and the lowest scores of the rest are taken.
    """
    van_table = ranked(known, down("correctness"), up("ordinal"))[:n_known]
    s = {r["sample_id"]: math.fsum(inner(refusal[r["sample_id"]], answer[v]) for v in van_table) for r in unknown}
    for _ in range(min(n_unknown, len(unknown))):
        best = max(s, key=s.__getitem__)  # the first of equals
        del s[best]
        for j in s:
            s[j] += inner(refusal[j], refusal[best])
    return van_table, sorted(s, key=s.__getitem__)[:n_unknown]


def keep_all(values: Mapping[str, float], count: int, largest: bool) -> list[str]:
    """pandas' nlargest/nsmallest(count, keep="all"): whatever ties with the last place comes too."""
    ordered = sorted(values, key=lambda i: -values[i] if largest else values[i])
    if len(ordered) <= count:
        return ordered
    edge = values[ordered[count - 1]]
    return [i for i in ordered if (values[i] >= edge if largest else values[i] <= edge)]


def keeps_flow(row: Row) -> bool:
    """mmlu_RAI.py drops Δμ > 0 alone; triviaqa_RAI.py drops Δμ ≥ 0."""
    return row["flow"] is not None and (row["flow"] < 0 or (bool(row["choice"]) and row["flow"] == 0))


def misaligned_flow(initial: Sequence[float], rehearsed: Sequence[float]) -> list[float]:
    """triviaqa_RAI.py: a frame of ten rows a question, read by position as if it had one."""
    ten_each = [r for r in rehearsed for _ in range(10)]
    return [ten_each[i] - m for i, m in enumerate(initial)]


# -- a world to choose from ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """Candidates, and the gradients of those that have no problem: response → id → bits of float16."""

    frame: pl.DataFrame
    bits: dict[str, dict[str, np.ndarray]]

    def vectors(self, ids: Sequence[str], response: str) -> np.ndarray:
        """As the store gives them: (n, dim) uint16."""
        held = self.bits[response]
        dim = len(next(iter(held.values())))
        return np.array([held[i] for i in ids], np.uint16).reshape(len(ids), dim)

    def floats(self, response: str) -> dict[str, list[float]]:
        return {i: row.view(np.float16).astype(np.float64).tolist() for i, row in self.bits[response].items()}

    def with_columns(self, **columns: Any) -> "World":
        """Columns by name, as lists or expressions; a list keeps its column's type."""
        kept = {k: pl.Series(k, v, self.frame.schema[k]) if isinstance(v, list) else v for k, v in columns.items()}
        return World(self.frame.with_columns(**kept), self.bits)

    def reordered(self) -> "World":
        return World(self.frame.reverse(), self.bits)


SCHEMA = {
    "sample_id": pl.String,
    "correctness": pl.Float32,
    "certainty": pl.Float32,
    "entropy": pl.Float32,
    "problem": pl.String,
    "subject": pl.String,
    "ordinal": pl.Int64,
    "choice": pl.Boolean,
    "flow": pl.Float64,
    "i_ref": pl.Float64,
    "i_over": pl.Float64,
    "i_ref_each": pl.List(pl.Float64),
    "target": pl.Float64,
}


def unit_rows(count: int, dim: int, distinct: int, seed: int) -> np.ndarray:
    """(count, dim) uint16: ``distinct`` random directions of near unit norm, repeated at random."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(distinct, dim)) + 0.3
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    which = np.concatenate([np.arange(distinct), rng.integers(0, distinct, max(0, count - distinct))])
    return rows[rng.permutation(which[:count])].view(np.uint16)


def world(kind: str = "ties", n: int = 60, seed: int = 0, dim: int = 12) -> World:
    """``ties``: numbers in few levels, a fifth of the rows are copies, every 10th candidate has a problem, some numbers
    are missing. ``smooth``: no two alike. ``equal``: two levels of correctness, all else the same. ``copies``: five
    different rows."""
    rng = np.random.default_rng([seed, n])
    smooth = kind == "smooth"

    def levels(low: int, high: int, scale: float) -> np.ndarray:
        if kind == "equal":
            return np.full(n, scale)
        return rng.uniform(low, high, n) * scale if smooth else rng.integers(low, high, n) * scale

    correctness = np.arange(n) % 2.0 if kind == "equal" else levels(0, 11, 0.1)
    missing = np.full(n, fill_value=False) if smooth or kind == "equal" else rng.random(n) < 0.1
    each = np.stack([levels(-3, 4, 0.25) for _ in range(4)], axis=1).tolist()
    columns = {
        "sample_id": [f"id{i:03}" for i in range(n)],
        "correctness": np.minimum(correctness, 1),
        "certainty": levels(0, 5, 0.25),
        "entropy": levels(0, 5, 0.25),
        "problem": [
            None if smooth or kind == "equal" or i % 10 else ("not-probed" if i % 20 else "gradient-zero")
            for i in range(n)
        ],
        "subject": [[None, "a", "b", "b", "c"][int(k)] for k in rng.integers(0, 5, n)],
        "ordinal": rng.permutation(n),
        "choice": rng.random(n) < 0.5,
        "flow": [None if m else f for m, f in zip(missing, levels(-3, 3, 0.1), strict=True)],
        "i_ref": [None if m else f for m, f in zip(np.roll(missing, 3), levels(-5, 5, 0.01), strict=True)],
        "i_over": levels(-5, 5, 0.01),
        "i_ref_each": [None if m else e for m, e in zip(np.roll(missing, 5), each, strict=True)],
        "target": levels(-5, 5, 0.01),
    }
    if kind == "equal":
        columns["flow"] = [-0.1] * n
    frame = pl.DataFrame({k: pl.Series(k, list(v), strict=False).cast(SCHEMA[k]) for k, v in columns.items()})
    usable = frame.filter(pl.col("problem").is_null())["sample_id"].to_list()
    distinct = {"smooth": n, "ties": max(1, 4 * n // 5), "copies": 5, "equal": 1}[kind]
    bits = {
        response: dict(zip(usable, unit_rows(n, dim, min(n, distinct), seed * 7 + k), strict=False))
        for k, response in enumerate(("answer", "refusal"))
    }
    return World(frame, bits)
