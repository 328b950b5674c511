"""Which samples teach, and which are rewritten to a refusal. One idea a file; a method is a triple of rules.

A rule is a pure function: a pool of candidates in, a ranking out, best first. Pools come in the order of a seeded
hash of their ids, the last tie-break, so no choice depends on the order of rows. Rankings and greedy rules choose
for k a prefix of what they choose for k+1.
"""

from gradstore.methods import METHODS, REFERENCE, Method
from gradstore.selection.candidates import Selection, select, split
from gradstore.selection.methods import RULES, method_of, needs_of
from gradstore.selection.pool import Pool, Rule, Vectors
from gradstore.selection.settings import KNOWN, UNKNOWN, Settings

__all__ = [
    "KNOWN",
    "METHODS",
    "REFERENCE",
    "RULES",
    "UNKNOWN",
    "Method",
    "Pool",
    "Rule",
    "Selection",
    "Settings",
    "Vectors",
    "method_of",
    "needs_of",
    "select",
    "split",
]
