"""Data sets of Hugging Face: saved to a folder, or named by hub id. Only this file needs the extra `hf`."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradstore.datasets.files import Record
from gradstore.errors import InputFileError, MissingExtra

SAVED_MARKS = ("dataset_info.json", "state.json", "dataset_dict.json")
_PART = r"[A-Za-z0-9_][\w.-]*"
HUB_ID = re.compile(rf"(?:{_PART}/)?{_PART}(?::{_PART})?", re.ASCII)
FILE_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]*$")  # of a file, unlike the .0 of a version


def is_saved(folder: Path) -> bool:
    """Say whether ``folder`` was written by ``save_to_disk``."""
    return any((folder / mark).is_file() for mark in SAVED_MARKS)


def may_be_hub_id(name: str) -> bool:
    """Say whether ``name`` is `owner/name` or `name`, `:configuration` or not, and no file's name."""
    return HUB_ID.fullmatch(name) is not None and FILE_SUFFIX.search(name) is None


def read_saved(folder: Path, split: str | None) -> tuple[list[Record], str | None]:
    """Read a saved data set: its records, and the split's name where it is known."""
    loaded = _load(str(folder), lambda library: library.load_from_disk(str(folder)))
    if split is not None and not isinstance(loaded, dict) and loaded.split is not None:
        loaded = {str(loaded.split): loaded}
    return _records(str(folder), loaded, split)


def read_hub(name: str, split: str | None) -> tuple[list[Record], str | None]:
    """Load a data set by its hub id; one of several configurations is named `owner/name:configuration`."""
    repository, _, configuration = name.partition(":")
    loaded = _load(name, lambda library: library.load_dataset(repository, configuration or None, split=split))
    return _records(name, loaded, split)


def _load(name: str, load: Callable[[Any], Any]) -> Any:
    try:
        import datasets  # the library, not this package: the import is absolute
    except ImportError as error:
        raise MissingExtra("datasets", "hf", f"reading {name} as a Hugging Face data set") from error
    try:
        return load(datasets)
    except Exception as error:  # whatever the library and its network stack raise, the way out is the same
        cause = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputFileError(
            f"{name}: not a question file, and not loaded as a Hugging Face data set ({cause}); "
            "pass a file, a folder, owner/name or owner/name:configuration"
        ) from error


def _records(name: str, loaded: Any, split: str | None) -> tuple[list[Record], str | None]:
    """Number the rows of one split from 1, as Python values whatever format they were saved with."""
    if isinstance(loaded, dict):
        loaded = _pick(name, loaded, split)
    rows = [Record(number, dict(row)) for number, row in enumerate(loaded.with_format(None), start=1)]
    if not rows:
        raise InputFileError(f"{name} is empty: it holds no records, at least one was expected; pass another")
    return rows, split or (None if loaded.split is None else str(loaded.split))


def _pick(name: str, splits: dict[str, Any], split: str | None) -> Any:
    if split in splits:
        return splits[split]
    asked = "no split was named" if split is None else f"there is no split {split!r}"
    raise InputFileError(f"{name}: {asked}; the splits are {', '.join(sorted(splits))}: name one with --split")
