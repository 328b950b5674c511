"""Which samples teach, and which are rewritten to a refusal. One rule a file; a method is a pair of rules.

A rule is a pure function: candidates in, the same frame ranked. Candidates have the columns ``sample_id,
correctness, certainty, i_ref, i_over, order`` (``order``: a seeded hash of the id, the last tie-break, so that no
choice depends on the order of rows). A rule returns sample ids from best to worst, so a selection of k is always
a prefix of one of k+1.
"""

from gradstore.selection.candidates import Settings, select
from gradstore.selection.methods import METHODS, Method

__all__ = ["METHODS", "Method", "Settings", "select"]
