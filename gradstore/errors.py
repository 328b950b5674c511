"""What can go wrong, one class for each thing a user can do about it.

Every message says where, what came, what was expected, and the way out. The command line prints it
as one line and exits with 1; nothing here is raised after something was half written.
"""


class GradstoreError(Exception):
    """The base of every error a user can act on."""


class InputFileError(GradstoreError):
    """A file is missing, is empty, or is not of the shape its preset reads: pass another file or preset."""


class StoreError(GradstoreError):
    """A store is missing, is already there, or was written in a format this version does not read."""


class SchemaError(GradstoreError):
    """Rows do not fit their table: wrong columns or types, a null key, or a vector of another dimension."""


class QueryError(GradstoreError):
    """SQL that does not parse, names what is not there, reads files, or writes: rewrite the query."""


class ModelError(GradstoreError):
    """A model, tokenizer or adapter cannot be loaded, or does not fit what it is used with."""


class CheckpointError(GradstoreError):
    """A checkpoint is incomplete, or its adapter or moments do not fit the base model."""


class ProvenanceError(GradstoreError):
    """Rows made by different models, checkpoints or recipes would be compared: name the one that is meant."""


class ResourceError(GradstoreError):
    """The disk, or a device's memory, cannot hold what was asked for: make room, or ask for less."""


class SelectionError(GradstoreError):
    """A selection cannot be made from what the store holds: an empty group, a cap that is too low."""


class AddressError(GradstoreError):
    """A page cannot be served at an address: give another port or host."""


class MissingExtra(GradstoreError):
    """An optional dependency is not installed; the message carries the install line."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed: pip install 'gradstore[{extra}]'")


def mismatch(what: str, expected: dict[str, object], found: dict[str, object], way_out: str) -> str:
    """Write one message that lists *every* setting in which ``found`` differs from ``expected``."""
    keys = [k for k in expected | found if expected.get(k) != found.get(k)]
    differences = "; ".join(f"{k}: {found.get(k)!r}, expected {expected.get(k)!r}" for k in keys)
    return f"{what} differ in {len(keys)} setting{'s' * (len(keys) != 1)} ({differences}). {way_out}"
