"""What every export shares: its examples, their order, the manifest, and one folder that is written whole.

An export is the folder ``out/<target>``: data, README and ``manifest.json``. It holds no time and no path of
this machine, so the same examples give the same bytes. It is written beside its place and then renamed.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from gradstore import __version__
from gradstore.errors import InputFileError, SchemaError, SelectionError
from gradstore.identity import seeded_order

FORMAT = 1
MANIFEST = "manifest.json"
GROUPS = ("known", "unknown")
ORDER_SEED = 0
MADE_BY_USE = {"__pycache__"}  # what running an export leaves in it, and may go with it

Text = str | list[dict[str, str]]


@dataclass(frozen=True)
class Example:
    """One row to train on: say ``completion`` after ``prompt``, and count it ``weight`` times.

    Prompt and completion are both text, or both chat messages ({"role", "content"}) where the model has a
    chat template. Text begins its completion with the space between the two, if there is one; in messages the
    completion is one assistant message.
    """

    sample_id: str
    group: str
    prompt: Text
    completion: Text
    weight: float  # finite, >= 0; 1 = as in unweighted training
    subject: str | None = None


def prepare(examples: Sequence[Example]) -> list[Example]:
    """Check the examples and order them by a seeded hash of their ids.

    GRAIT's trainer reads its file in order, in every epoch: the order must mix the groups, and be the same
    whatever order the selection had.
    """
    if not examples:
        raise SelectionError("There are no examples to export: the selection is empty. Select before you export.")
    _check_groups(examples)
    _check_weights(examples)
    _check_texts(examples)
    return sorted(examples, key=lambda e: (seeded_order(ORDER_SEED, e.sample_id), e.sample_id))


def _check_groups(examples: Sequence[Example]) -> None:
    strange = sorted({e.group for e in examples} - set(GROUPS))
    if strange:
        raise SelectionError(f"Groups {strange} cannot be exported, expected {list(GROUPS)}: map them to these.")


def _check_weights(examples: Sequence[Example]) -> None:
    bad = [e for e in examples if not (math.isfinite(e.weight) and e.weight >= 0)]
    if bad:
        raise SelectionError(
            f"{len(bad)} of {len(examples)} weights are not finite numbers >= 0, first {bad[0].weight!r} "
            f"of sample {bad[0].sample_id}: change how samples are weighted, or leave those out."
        )


def _check_texts(examples: Sequence[Example]) -> None:
    """One file has one type for each field, so text and messages cannot share it."""
    chats = sum(isinstance(e.prompt, list) for e in examples)
    matching = all(isinstance(e.prompt, list) == isinstance(e.completion, list) for e in examples)
    if not matching or chats not in (0, len(examples)):
        raise SchemaError(
            f"{chats} of {len(examples)} prompts are chat messages and the rest text, or a prompt and its "
            "completion differ in this: a file holds one kind. Use one prompt format for all examples."
        )


def json_text(value: object, indent: int | None = None) -> str:
    """Write JSON as people read it (no escapes beyond ASCII), with a newline at its end; no NaN."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent) + "\n"


def weight_summary(weights: Sequence[float]) -> dict[str, float]:
    """Summarise weights; effective_sample_size = (Σw)² / Σw² (Kish), 0 where every weight is 0."""
    total, squares = math.fsum(weights), math.fsum(w * w for w in weights)
    return {
        "sum": total,
        "mean": total / len(weights),
        "min": min(weights),
        "max": max(weights),
        "effective_sample_size": total * total / squares if squares else 0.0,
    }


def manifest(
    target: str, examples: Sequence[Example], files: Mapping[str, str], provenance: Mapping[str, object]
) -> dict[str, object]:
    """Say what is in an export, where it came from, and the SHA-256 of each file."""
    weights = {g: [float(e.weight) for e in examples if e.group == g] for g in GROUPS}
    return {
        "format": FORMAT,
        "gradstore": __version__,
        "target": target,
        "rows": len(examples),
        "groups": {g: len(w) for g, w in weights.items()},
        "weights": {g: weight_summary(w) for g, w in weights.items() if w},
        "provenance": json.loads(json.dumps(provenance, sort_keys=True)),
        "files": {name: hashlib.sha256(files[name].encode()).hexdigest() for name in sorted(files)},
    }


def write_export(
    target: str,
    examples: Sequence[Example],
    files: Mapping[str, str],
    out: Path,
    provenance: Mapping[str, object],
) -> list[Path]:
    """Write ``files`` (name to text) and their manifest as the folder ``out/target``; return their paths.

    An earlier export of this target is replaced; a folder that holds anything else is left as it is.
    """
    place = out / target
    _check_place(place, target)
    described = json_text(manifest(target, examples, files, provenance), indent=2)
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out, prefix=f".{target}-") as temporary:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        new.mkdir()
        for name, text in {**files, MANIFEST: described}.items():
            (new / name).write_bytes(text.encode())
        if place.exists():
            place.rename(old)
        new.rename(place)
    return [place / name for name in [*files, MANIFEST]]


def _check_place(place: Path, target: str) -> None:
    """Refuse to replace a folder with what no export wrote in it, such as an adapter trained there."""
    for path in (place.parent, place):
        if path.exists() and not path.is_dir():
            raise InputFileError(f"{path} is a file, expected a folder to export to: pass another folder.")
    present = {p.name for p in place.iterdir()} if place.exists() else set()
    foreign = sorted(present - _exported(place, target) - MADE_BY_USE)
    if foreign:
        names = ", ".join(foreign[:5]) + ", ..." * (len(foreign) > 5)
        raise InputFileError(
            f"{place} holds what no export to {target} wrote ({names}), and exporting would replace the "
            "folder: move that away, or pass another folder."
        )


def _exported(place: Path, target: str) -> set[str]:
    """Name the files an earlier export to ``target`` wrote in ``place``; none without our manifest."""
    try:
        found = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        ours = found["gradstore"] and found["target"] == target
        return {*found["files"], MANIFEST} if ours else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()
