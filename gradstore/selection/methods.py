"""The named methods: a rule for the known side, one for the unknown side, and what the sides are.

* ``grait``     (Zhu et al. 2025, arXiv 2502.05911) known: most correct; unknown: largest refusal influence.
* ``cor-rait``  (R-Tuning as CRaFT and GRAIT run it; CRaFT §4.2) both sides at random within their group.
* ``random``    the control: refusals at random, whatever the model knows.
"""

from dataclasses import dataclass

from gradstore.selection.rules import Rule, at_random, top_correct, top_refusal_influence


@dataclass(frozen=True)
class Method:
    """``blind`` methods draw both sides from all candidates, without looking at correctness."""

    known: Rule
    unknown: Rule
    weights: str
    needs_gradients: bool
    blind: bool = False


METHODS = {
    "grait": Method(top_correct, top_refusal_influence, "intent", needs_gradients=True),
    "cor-rait": Method(at_random, at_random, "uniform", needs_gradients=False),
    "random": Method(at_random, at_random, "uniform", needs_gradients=False, blind=True),
}
