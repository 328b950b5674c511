"""Write the training data a selection and its weights make, for the trainers that will read it.

Importing this room imports no torch: the TRL trainer is copied beside its data as text.
"""

from collections.abc import Callable

from gradstore.export.manifest import Example
from gradstore.export.trl import write_trl
from gradstore.export.xtuner import write_xtuner

TARGETS: dict[str, Callable] = {"trl": write_trl, "xtuner": write_xtuner}

__all__ = ["TARGETS", "Example", "write_trl", "write_xtuner"]
