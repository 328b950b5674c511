"""Question files as rows of ``samples`` and ``rejects``: MMLU, ARC, NQ, TriviaQA, or any question file.

One record of a file is kept as a sample, counted as a duplicate, or set aside with a reason.
"""

from gradstore.datasets.presets import PRESETS
from gradstore.datasets.reading import ROLES, Ingested, read_files

__all__ = ["PRESETS", "ROLES", "Ingested", "read_files"]
