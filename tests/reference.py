"""Plainly slow twins of the fast things, written from the papers' formulas: Python loops over float64 and big ints.

No twin imports what it checks. Where a twin and its module differ, believe neither: read the formula again.
"""

import hashlib
import math
from collections.abc import Sequence

MASK = 2**64 - 1


# -- CountSketch by SplitMix64 (Steele, Lea & Flood 2014), in integers of any size -----------------------------


def splitmix64(state: int) -> int:
    z = state & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def bucket_and_sign(seed: int, name: str, dim: int, sparsity: int, i: int, k: int) -> tuple[int, int]:
    """Where the k-th copy of coordinate i goes, and with which sign."""
    start = int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest(), "little")
    hashed = splitmix64(start + (i * sparsity + k) * 0x9E3779B97F4A7C15)
    return (hashed >> 32) * dim >> 32, -1 if hashed % 2 else 1


def sketched(values: Sequence[float], seed: int, name: str, dim: int, sparsity: int) -> list[float]:
    out = [0.0] * dim
    for i, value in enumerate(values):
        for k in range(sparsity):
            bucket, sign = bucket_and_sign(seed, name, dim, sparsity, i, k)
            out[bucket] += sign * value / math.sqrt(sparsity)
    return out


def dense_sign(seed: int, name: str, dim: int, i: int, j: int) -> int:
    """Sign of row i, column j of a Rademacher matrix: bit j mod 64 of the row's hash number j div 64."""
    start = int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest(), "little")
    hashed = splitmix64(start + (i * math.ceil(dim / 64) + j // 64) * 0x9E3779B97F4A7C15)
    return -1 if hashed >> j % 64 & 1 else 1


# -- features (Kingma & Ba 2015, Alg. 1; LESS §3.1) ------------------------------------------------------------


def feature(kind: str, g: float, m: float, v: float, *, step: int, beta1: float, beta2: float, eps: float) -> float:
    """Γ of one coordinate; ``step`` steps were taken before. 0/0 is 0: what never had a gradient does not move."""

    def adam(g: float) -> float:
        t = step + 1
        m_hat = (beta1 * m + (1 - beta1) * g) / (1 - beta1**t)
        v_hat = (beta2 * v + (1 - beta2) * g * g) / (1 - beta2**t)
        return m_hat / (math.sqrt(v_hat) + eps)

    if kind == "sgd":
        return g
    if kind == "sign":
        return math.copysign(1, g) if g else 0.0
    if kind == "less":
        return (0.9 * m + 0.1 * g) / math.sqrt(0.999 * v + 0.001 * g * g + 1e-8)
    if kind == "second-moment":
        return g / (math.sqrt(v) + eps)
    return adam(g) - (adam(0.0) if kind == "adam-delta" else 0.0)


# -- float16 (IEEE 754 binary16) -------------------------------------------------------------------------------


def half_value(bits: int) -> float:
    """The number that 16 bits stand for: 1 sign, 5 exponent, 10 fraction."""
    sign, exponent, fraction = -1.0 if bits >> 15 else 1.0, bits >> 10 & 31, bits & 1023
    if exponent == 31:
        return math.nan if fraction else sign * math.inf
    return sign * (fraction * 2.0**-24 if exponent == 0 else (1024 + fraction) * 2.0 ** (exponent - 25))


# -- kernels over rows of numbers ------------------------------------------------------------------------------


def products(rows: Sequence[Sequence[float]], targets: Sequence[Sequence[float]]) -> list[list[float]]:
    """<row, target>, term after term: NaN and ∞ go where arithmetic takes them."""
    return [[sum((x * t for x, t in zip(row, target, strict=True)), 0.0) for target in targets] for row in rows]


def group_sums(
    rows: Sequence[Sequence[float]], groups: Sequence[int], sums: Sequence[Sequence[float]]
) -> list[list[float]]:
    """``sums`` with each row added to that of its group; a negative group is none."""
    sums = [list(s) for s in sums]
    for row, group in zip(rows, groups, strict=True):
        if group >= 0:
            sums[group] = [s + x for s, x in zip(sums[group], row, strict=True)]
    return sums


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """A zero vector has no direction: 0."""
    product = sum((x * y for x, y in zip(a, b, strict=True)), 0.0)
    down = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
    if down == 0:
        return 0.0
    return math.nan if math.isinf(down) and math.isinf(product) else product / down


def best(scores: Sequence[float], positions: Sequence[int], k: int, without: int = -1) -> list[tuple[float, int]]:
    """The k largest with their positions; of equals the lower position; NaN never, nor the position ``without``."""
    able = [(-s, p) for s, p in zip(scores, positions, strict=True) if not math.isnan(s) and p != without]
    return [(-s, p) for s, p in sorted(able)[:k]]


def neighbours(
    rows: Sequence[Sequence[float]], among: Sequence[Sequence[float]], k: int, own: Sequence[int]
) -> list[list[int]]:
    """Positions of the k rows of ``among`` with the largest product with each row, itself left out."""
    every = range(len(among))
    return [[p for _, p in best([inner(x, y) for y in among], every, k, i)] for x, i in zip(rows, own, strict=True)]


def gain(near: Sequence[float], covered: Sequence[float]) -> float:
    return sum(max(a - b, 0.0) for a, b in zip(near, covered, strict=True))


# -- influence (GRAIT §3, LESS eq. 3) --------------------------------------------------------------------------


def inner(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def influence(rows: Sequence[Sequence[float]], members: Sequence[int]) -> list[float]:
    """mean_{j∈G} <u_i, u_j> for each i, from the N×N matrix of products that the released code keeps on disk."""
    products = [[inner(a, b) for b in rows] for a in rows]
    return [math.fsum(row[j] for j in members) / len(members) for row in products]


# -- weights (GRAIT step 3) ------------------------------------------------------------------------------------


def softmax(x: Sequence[float]) -> list[float]:
    exps = [math.exp(v - max(x)) for v in x]
    return [e / math.fsum(exps) for e in exps]


def grait_weights(i_ref: Sequence[float], i_over: Sequence[float], tau: float, total: float, sign: int) -> list[float]:
    """sign +1: the prose (more weight to what teaches more than it over-refuses); −1: the released code."""
    return [total * s for s in softmax([sign * (r - o) / tau for r, o in zip(i_ref, i_over, strict=True)])]


def effective_size(weights: Sequence[float]) -> float:
    return math.fsum(weights) ** 2 / math.fsum(w * w for w in weights)


def capped(weights: Sequence[float], cap: float) -> list[float]:
    """min(cap, λw) with the λ that keeps the total, found by bisection; for positive weights."""
    total, low, high = math.fsum(weights), 0.0, 1.0
    while math.fsum(min(cap, high * w) for w in weights) < total * (1 - 1e-15) and high < 1e300:
        high *= 2
    for _ in range(2000):
        middle = (low + high) / 2
        low, high = (middle, high) if math.fsum(min(cap, middle * w) for w in weights) < total else (low, middle)
    return [min(cap, high * w) for w in weights]


# -- knowledge (CRaFT §3.1) ------------------------------------------------------------------------------------


def entropy(p: Sequence[float]) -> float:
    return -math.fsum(x * math.log(x) for x in p if x > 0)


def normalised(p: Sequence[float]) -> list[float]:
    return [x / math.fsum(p) for x in p]


def certainty(p: Sequence[float], outcomes: int) -> float:
    return 1 - entropy(p) / math.log(outcomes)


def normalised_one_after_another(p: Sequence[float]) -> list[float]:
    """The bug of CRaFT's mmlu_RAI.py: each letter is divided by a sum that holds already divided ones."""
    p = list(p)
    for i in range(len(p)):
        p[i] = p[i] / sum(p)
    return p


def mean_cosine(rows: Sequence[Sequence[float]]) -> float:
    pairs = [(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
    return math.fsum(inner(a, b) / math.sqrt(inner(a, a) * inner(b, b)) for a, b in pairs) / len(pairs)


# -- selection (GRAIT steps 1 and 2) ---------------------------------------------------------------------------


def grait_selection(
    rows: Sequence[dict], threshold: float, known: int, unknown: int, seed: int
) -> tuple[list[str], list[str]]:
    """Ids of both sides, best first; correctness equal to the threshold is known."""

    def tie(row: dict) -> str:
        return hashlib.sha256(f"{seed}:{row['sample_id']}".encode()).hexdigest()

    able = [r for r in rows if r["problem"] is None]
    knows = sorted(
        (-r["correctness"], -r["certainty"], tie(r), r["sample_id"]) for r in able if r["correctness"] >= threshold
    )
    not_knows = sorted(
        (-r["i_ref"], r["certainty"], tie(r), r["sample_id"]) for r in able if r["correctness"] < threshold
    )
    return [k[-1] for k in knows[:known]], [u[-1] for u in not_knows[:unknown]]


# -- evaluation (CRaFT §4.1) -----------------------------------------------------------------------------------


def ths(refined: tuple[float, float], initial: tuple[float, float]) -> float:
    """(OE2 × OE1) / (OA × OE1), points (P_c, P_w), A = (1, 0)."""

    def cross(a: tuple[float, float], b: tuple[float, float]) -> float:
        return a[0] * b[1] - a[1] * b[0]

    return cross(refined, initial) / cross((1.0, 0.0), initial)
