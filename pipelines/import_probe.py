"""Outputs made elsewhere (vLLM, OpenCompass) → ``probes``, joined by sample id."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from gradstore import runs
from gradstore.errors import InputFileError
from gradstore.identity import content_id, row_id
from gradstore.pipelines import ModelOptions
from gradstore.pipelines.model import load, special_tokens
from gradstore.pipelines.probe import ProbeSettings, certainty_of, probe_identity
from gradstore.pipelines.work import make_prompt, read_samples, write_prompts
from gradstore.probing import Knowledge, from_choices, from_samples
from gradstore.prompts import Sample, option_letters
from gradstore.schemas import TABLES
from gradstore.store import GradientStore

EXPECTED = '{"sample_id": …, "generations": [texts]} or {"sample_id": …, "choice_probs": [one number an option]}'


@dataclass(frozen=True)
class Refused:
    """Why a line was not taken."""

    reason: str
    detail: str


def import_probe(
    store: GradientStore,
    file: str | Path,
    options: ModelOptions,
    settings: ProbeSettings | None = None,
    *,
    role: str = "train",
) -> dict[str, int]:
    """Read JSON lines of generations or letter probabilities of ``options.model``. Returns counts.

    Lines that name no stored sample, or do not fit it, go to ``rejects`` with line and reason. The model is loaded
    for its identity and chat template, so that later stages can tell that they use the same one.
    """
    file = Path(file)
    if not file.is_file():
        raise InputFileError(f"no such file: {file}; expected JSON lines of {EXPECTED}")
    samples = read_samples(store, role)
    loaded = load(options)
    tokens = special_tokens(loaded)
    settings = settings or ProbeSettings()
    prompt = make_prompt(store, settings.template, loaded.chat_template, tokens, settings.shots)
    rows, rejects = [], []
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    probe_id = probe_identity(loaded.model_id, None, prompt.prompt_id, settings, f"imported {digest}")
    certainty = certainty_of(settings)
    for line, raw in _lines(file):
        found = read_line(raw, samples, certainty, prompt.refusal_text)
        if isinstance(found, Refused):
            rejects.append(_reject(file, line, raw, found))
            continue
        sample_id, known, extra = found
        n = len(extra.get("generations", []))
        rows.append(
            {
                "row_id": row_id(sample_id, probe_id),
                "sample_id": sample_id,
                "probe_id": probe_id,
                "model_id": loaded.model_id,
                "prompt_id": prompt.prompt_id,
                "correctness": known.correctness,
                "certainty": known.certainty,
                "entropy": known.entropy,
                **extra,
                "n_samples": n,
                "status": "ok",
            }
        )
    if not rows:
        raise InputFileError(f"{file}: no line could be used ({_reasons(rejects)}); expected {EXPECTED}")
    write_prompts(store, [prompt, make_prompt(store, "refuse", loaded.chat_template, tokens)])
    run = runs.begin(store, "probe", {"import": file.name, "model_id": loaded.model_id}, ["samples", "probes"])
    written = store.write("probes", pa.Table.from_pylist(rows, schema=TABLES["probes"].schema))
    store.write("rejects", pa.Table.from_pylist(rejects, schema=TABLES["rejects"].schema))
    counts = {"new": written.new, "stored before": written.skipped, "rejected": len(rejects)}
    run.finish(counts, ["probes", "prompts", "rejects"])
    return counts


def read_line(
    raw: str, samples: dict[str, Sample], certainty: Any, refusal_text: str
) -> tuple[str, Knowledge, dict[str, Any]] | Refused:
    """One line as knowledge of one sample, or why not."""
    try:
        record = json.loads(raw)
    except json.JSONDecodeError as error:
        return Refused("undecodable", str(error))
    if not isinstance(record, dict) or not isinstance(record.get("sample_id"), str):
        return Refused("missing-field", "no sample_id")
    sample = samples.get(record["sample_id"])
    if sample is None:
        return Refused("unknown-id", f"no sample {record['sample_id']} of this role is stored")
    if sample["task"] == "oeqa":
        texts = record.get("generations")
        if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
            return Refused("missing-field", "an open question needs generations, a list of texts")
        known = from_samples(texts, sample["aliases"], certainty, [refusal_text])
        return record["sample_id"], known, {"generations": texts, "verdicts": known.verdicts}
    return _choices(record, sample)


def _choices(record: dict[str, Any], sample: Sample) -> tuple[str, Knowledge, dict[str, Any]] | Refused:
    p, options = record.get("choice_probs"), option_letters(sample["choices"])
    if isinstance(p, dict):
        p = [p.get(letter) for letter in options]
    numbers = isinstance(p, list) and all(isinstance(x, int | float) and 0 <= x <= 1 for x in p)
    if not numbers or len(p) != len(options) or sum(p) <= 0:  # type: ignore[arg-type]
        return Refused("bad-choices", f"choice_probs must hold {len(options)} numbers from 0 to 1, not all zero")
    known = from_choices(p, options.index(sample["answer"]))  # type: ignore[arg-type]
    return record["sample_id"], known, {"choice_probs": [x / sum(p) for x in p], "option_mass": min(1.0, sum(p))}  # type: ignore[arg-type, union-attr]


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, line


def _reject(file: Path, line: int, raw: str, refused: Refused) -> dict[str, Any]:
    content = {"stage": "probe", "file": file.name, "line": line, "reason": refused.reason}
    row = {**content, "detail": refused.detail, "raw": raw[:2000]}
    return {"reject_id": content_id("reject", row), **row}


def _reasons(rejects: list[dict[str, Any]]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in sorted(Counter(r["reason"] for r in rejects).items())) or "empty"
