"""The methods of the literature, and ours, by name: pure data, so that ``--help`` lists them and loads nothing.

A method says how the sides are told apart, a rule for each side, what the unknown side is trained to say, and how
samples are weighed. What a rule does is in :mod:`gradstore.selection`.
"""

from __future__ import annotations

from dataclasses import dataclass

KNOWN, UNKNOWN = "known", "unknown"

RULES = {
    "random": "by seeded hash",
    "top-correct": "most correct",
    "most-certain": "most certain",
    "least-certain": "least certain",
    "least-certain-falling": "least certain that rehearsal made worse",
    "random-falling": "by seeded hash, of those that rehearsal made worse",
    "i-ref": "largest refusal influence",
    "i-ref-minus-i-over": "largest I_ref − λ·I_over",
    "stable": "largest mean/std of I_ref over checkpoints and sketches",
    "target": "largest influence on a target",
    "herding": "greedy mean matching of the side's gradients",
    "facility": "facility location over the side's gradients",
    "matching": "matching pursuit of the side's full update",
    "hard": "knowns whose refusal gradient is nearest to the chosen unknowns",
    "first-most-correct": "released GRAIT: most correct, ties by file order",
    "leftovers": "released GRAIT: the worst that its greedy loop left",
    "with-replacement": "released Cor-RAIT: drawn with replacement",
    "most-certain-all": "released CorCer-RAIT: nlargest(keep='all')",
    "least-certain-all": "released CorCer-RAIT: nsmallest(keep='all')",
    "released-falling": "released CRaFT: its flow filter, then nsmallest(keep='all')",
    "last": "released R-Tuning-U for ParaRel: the last item of the file",
}
WEIGHTS = {
    "uniform": "1",
    "intent": "softmax of I_ref − I_over",
    "reference": "softmax of I_over − I_ref, τ = 0.05, total N/2: GRAIT's code",
    "knowledge": "by correctness: w = μ of knowns, 1 − μ of unknowns",
    "mean-matching": "so that the chosen pull as their whole side does",
    "cluster-size": "how many of the side are nearest to it",
    "multiplicity": "how often it was drawn",
}


@dataclass(frozen=True)
class Method:
    """A triple of rules. ``split`` tells known from unknown: ``correctness``, ``entropy`` (the lower half is known), or
    ``blind`` (both sides from all candidates). ``says``: what the unknown side is trained to say: ``refusal``,
    ``pool`` (one of many refusals), ``unsure`` (R-Tuning's suffix, on both sides), ``answer`` (nothing is
    rewritten)."""

    known: str
    unknown: str
    weights: str
    summary: str
    split: str = "correctness"
    says: str = "refusal"
    boundary: str = KNOWN


METHODS = {
    "grait": Method("top-correct", "i-ref", "intent", "GRAIT: largest refusal influence, weighted by I_ref − I_over"),
    "cor-rait": Method("random", "random", "uniform", "CRaFT's and GRAIT's R-Tuning: by correctness alone"),
    "corcer-rait": Method("most-certain", "least-certain", "uniform", "by correctness and certainty"),
    "craft": Method("most-certain", "least-certain-falling", "uniform", "CRaFT: certainty and knowledge flow"),
    "craft-no-flow": Method("most-certain", "least-certain", "uniform", "CRaFT's ablation, which is corcer-rait"),
    "craft-no-certainty": Method("random", "random-falling", "uniform", "CRaFT's ablation w/o Cer"),
    "r-tuning": Method("random", "random", "uniform", "R-Tuning: answers kept, I am sure / I am unsure", says="unsure"),
    "r-tuning-r": Method(
        "random", "random", "uniform", "R-Tuning-R: wrong answers become one of 16 refusals", says="pool"
    ),
    "r-tuning-u": Method(
        "random", "random", "uniform", "R-Tuning-U: sure and unsure by entropy, no labels", "entropy", "unsure"
    ),
    "van": Method("random", "random", "uniform", "Van-Tuning: no refusals at all", "blind", "answer"),
    "less": Method("target", "target", "uniform", "LESS: largest influence on a target"),
    "random": Method("random", "random", "uniform", "the control: refusals whatever the model knows", "blind"),
    "herding": Method("herding", "herding", "uniform", "mean matching on both sides"),
    "herding-unknown": Method("random", "herding", "uniform", "mean matching of the unknowns, random knowns"),
    "facility": Method("facility", "facility", "uniform", "facility location on both sides"),
    "craig": Method("facility", "facility", "cluster-size", "CRAIG: facility location, weights are neighbourhoods"),
    "gradmatch": Method("matching", "matching", "mean-matching", "GradMatch: matching pursuit with its weights"),
    "hard-known": Method("hard", "herding", "uniform", "herded unknowns, and the knowns they would over-refuse"),
    "stable": Method("top-correct", "stable", "uniform", "refusal influence, mean over spread"),
}

# What the released code does; see gradstore.selection.released.
REFERENCE = {
    "grait": Method("first-most-correct", "leftovers", "uniform", "GRAIT as released", boundary="drop"),
    "cor-rait": Method("with-replacement", "with-replacement", "multiplicity", "Cor-RAIT as released"),
    "corcer-rait": Method("most-certain-all", "least-certain-all", "uniform", "CorCer-RAIT as released"),
    "craft": Method("most-certain-all", "released-falling", "uniform", "CRaFT as released"),
    "craft-no-flow": Method("most-certain-all", "least-certain-all", "uniform", "CRaFT w/o Flow as released"),
    "r-tuning-u": Method("random", "last", "uniform", "R-Tuning-U as released for ParaRel", "entropy", "unsure"),
}
