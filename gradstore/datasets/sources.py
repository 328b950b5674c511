"""What the caller names (file, folder, hub id) becomes sources: records under one name and split."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradstore.datasets import hub
from gradstore.datasets.files import SUFFIXES, Record, read_records
from gradstore.datasets.presets import Preset
from gradstore.errors import InputFileError

SPLIT_SUFFIX = re.compile(r"(?P<subject>.+)_(?P<split>test|dev|val)")


@dataclass(frozen=True)
class Source:
    """The records of one file or data set. ``subject`` stands in where a record has none of its own."""

    name: str
    records: list[Record]
    split: str | None
    hub_id: str | None = None
    subject: str | None = None


def open_sources(paths: Sequence[str | Path], preset: Preset, split: str | None) -> Iterator[Source]:
    """Read each file once, in the order named, the files of a folder by name."""
    if isinstance(paths, (str, Path)):
        paths = [paths]
    if not paths or not all(str(path) for path in paths):
        raise InputFileError("no files were named: pass at least one file, folder or Hugging Face data set")
    for name in dict.fromkeys(name for path in paths for name in _expanded(path)):
        yield _open(name, preset, split)


def _expanded(path: str | Path) -> list[str]:
    folder = Path(path)
    if not folder.is_dir() or hub.is_saved(folder):
        return [str(path)]
    files = sorted(f for f in folder.iterdir() if _is_readable(f))
    if not files:
        inside = ", ".join(sorted(f.name for f in folder.iterdir())[:12]) or "nothing"
        raise InputFileError(f"{path}: no {', '.join(SUFFIXES)} in this folder (it holds {inside}); pass another")
    return [str(file) for file in files]


def _is_readable(file: Path) -> bool:
    return file.is_file() and file.suffix.lower() in SUFFIXES and not file.name.startswith(".")


def _open(name: str, preset: Preset, split: str | None) -> Source:
    path = Path(name)
    if path.is_dir():
        records, found = hub.read_saved(path, split)
        return Source(name, records, found)
    if path.exists():
        return _open_file(path, name, preset, split)
    if hub.may_be_hub_id(name):
        records, found = hub.read_hub(name, split)
        return Source(name, records, found, hub_id=name)
    raise InputFileError(
        f"no such file: {name}, expected a file of {', '.join(SUFFIXES)}, a folder of them, "
        "or a Hugging Face data set id (owner/name); check the path"
    )


def _open_file(path: Path, name: str, preset: Preset, split: str | None) -> Source:
    records = read_records(path, name, preset.headerless)
    suffixed = SPLIT_SUFFIX.fullmatch(path.stem)
    found = suffixed["split"] if suffixed else path.stem
    subject = None
    if preset.subject_from_csv_name and path.suffix.lower() == ".csv":
        subject = (suffixed["subject"] if suffixed else path.stem).replace("_", " ")
    return Source(name, records, split or found, subject=subject)
