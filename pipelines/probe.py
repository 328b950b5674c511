"""What a model knows: samples → ``probes``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gradstore import runs
from gradstore.errors import GradstoreError
from gradstore.identity import content_id, row_id
from gradstore.models import answering
from gradstore.models.adapters import load_adapter
from gradstore.models.checkpoints import read_checkpoint
from gradstore.models.embeddings import DEFAULT, load_embedder
from gradstore.models.encoding import encode_prompt
from gradstore.models.loading import LoadedModel
from gradstore.pipelines import ModelOptions, Progress, silent, unsaid
from gradstore.pipelines.model import load, longest_input, special_tokens
from gradstore.pipelines.shards import WHOLE, Shard, on_devices
from gradstore.pipelines.work import make_prompt, pending, read_samples, write_prompts
from gradstore.probing import Certainty, Knowledge, from_choices, from_samples, mean_cosine
from gradstore.prompts import Prompt, Sample, option_letters
from gradstore.schemas import TABLES
from gradstore.store import GradientStore

CERTAINTIES = ("agreement", "cosine")


@dataclass(frozen=True)
class ProbeSettings:
    """How knowledge is asked for. Open questions: ``n_samples`` draws at ``temperature``; multiple choice: one
    forward. ``certainty`` of open questions: agreement of answers, or mean cosine of their embeddings."""

    template: str = "basic"
    shots: int = 0
    n_samples: int = 10
    temperature: float = 1.0
    max_new_tokens: int = 32
    seed: int = 0
    certainty: str = "agreement"
    embedder: str = DEFAULT

    def __post_init__(self) -> None:
        if self.certainty not in CERTAINTIES:
            raise GradstoreError(f"certainty {self.certainty!r}: expected {', '.join(CERTAINTIES)}")
        if self.n_samples < 1 or self.temperature <= 0:
            raise GradstoreError(f"{self.n_samples} samples at temperature {self.temperature}: expected ≥ 1 and > 0")


class Prober:
    """A loaded model with one prompt, that answers batches of samples as rows of ``probes``."""

    def __init__(
        self, loaded: LoadedModel, prompt: Prompt, settings: ProbeSettings, checkpoint_id: str | None, max_length: int
    ) -> None:
        self.loaded, self.prompt, self.settings, self.max_length = loaded, prompt, settings, max_length
        self.checkpoint_id = checkpoint_id
        self.certainty = certainty_of(settings)
        model = loaded.model_id + ("/nf4" if "/nf4" in loaded.dtype else "")  # 4-bit weights know other things
        self.probe_id = probe_identity(model, checkpoint_id, prompt.prompt_id, settings)
        self.letters: dict[str, list[int]] = {}

    def encode(self, sample: Sample) -> list[int]:
        """Token ids to ask with; for multiple choice also notes each letter's token."""
        asked = self.prompt.ask(sample)
        if sample["task"] == "oeqa":
            return encode_prompt(self.loaded.tokenizer, asked)
        replies = [self.prompt.reply(sample, letter) for letter in option_letters(sample["choices"])]
        ids, self.letters[sample["sample_id"]] = answering.letter_tokens(self.loaded.tokenizer, asked, replies)
        return ids

    def rows(self, samples: Sequence[Sample], ids: Sequence[list[int]]) -> Iterable[dict[str, Any]]:
        """One row a sample; over-long prompts get status truncated and no numbers."""
        fits = [len(i) <= self.max_length for i in ids]
        asked = [s for s, ok in zip(samples, fits, strict=True) if ok]
        answers = iter(self._answers(asked, [i for i, ok in zip(ids, fits, strict=True) if ok]) if asked else [])
        for sample, ok in zip(samples, fits, strict=True):
            yield self._row(sample, *(next(answers) if ok else (None, {}, "truncated")))

    def _answers(self, samples: Sequence[Sample], ids: Sequence[list[int]]) -> Iterable[tuple]:
        if samples[0]["task"] == "mcqa":
            letters = [self.letters[s["sample_id"]] for s in samples]
            for sample, p in zip(samples, answering.option_probabilities(self.loaded, ids, letters), strict=True):
                if not np.isfinite(p).all() or p.sum() == 0:
                    yield None, {}, "nan"
                    continue
                gold = option_letters(sample["choices"]).index(sample["answer"])
                shares = {"choice_probs": (p / p.sum()).tolist(), "option_mass": float(p.sum())}
                yield from_choices(p.tolist(), gold), shares, "ok"
            return
        drawn = answering.sample_answers(
            self.loaded,
            [s["sample_id"] for s in samples],
            ids,
            n_samples=self.settings.n_samples,
            temperature=self.settings.temperature,
            max_new_tokens=self.settings.max_new_tokens,
            seed=self.settings.seed,
        )
        for sample, texts in zip(samples, drawn, strict=True):
            known = from_samples(texts, sample["aliases"], self.certainty, [self.prompt.refusal_text])
            yield known, {"generations": texts, "verdicts": known.verdicts}, "ok"

    def _row(self, sample: Sample, known: Knowledge | None, extra: dict[str, Any], status: str) -> dict[str, Any]:
        return {
            "row_id": row_id(sample["sample_id"], self.probe_id),
            "sample_id": sample["sample_id"],
            "probe_id": self.probe_id,
            "model_id": self.loaded.model_id,
            "checkpoint_id": self.checkpoint_id,
            "prompt_id": self.prompt.prompt_id,
            **({k: getattr(known, k) for k in ("correctness", "certainty", "entropy")} if known else {}),
            **extra,
            "n_samples": self.settings.n_samples if sample["task"] == "oeqa" else 0,
            "status": status,
        }


def probe(
    store: GradientStore,
    options: ModelOptions,
    settings: ProbeSettings | None = None,
    *,
    checkpoint: str | Path | None = None,
    role: str = "train",
    shard: Shard = WHOLE,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Probe every sample of ``role`` (and ``shard``) with a model, or with a checkpoint of it. Resumes.

    Returns counts (samples, new rows, and new rows by status) and the probe_id.
    """
    settings = settings or ProbeSettings()
    samples = read_samples(store, role)
    loaded = load(options)
    checkpoint_id = None
    if checkpoint is not None:
        found = read_checkpoint(checkpoint, loaded.model_id)
        loaded.model = load_adapter(loaded.model, found.folder).eval()
        checkpoint_id = found.checkpoint_id
    tokens = special_tokens(loaded)
    prompt = make_prompt(store, settings.template, loaded.chat_template, tokens, settings.shots)
    prober = Prober(loaded, prompt, settings, checkpoint_id, longest_input(options, loaded))
    write_prompts(store, [prompt, make_prompt(store, "refuse", loaded.chat_template, tokens)])
    asked = {"probe_id": prober.probe_id, "role": role, "shard": str(shard), **asdict(settings), **asdict(options)}
    with runs.begin(store, "probe", asked, ["samples", "probes"]) as run:
        samples = shard.of(read_samples(store, role, run.versions["samples"]))
        then, now = store.keys("probes", version=run.versions["probes"]), store.keys("probes")
        statuses: Counter[str] = Counter()
        for task in ("mcqa", "oeqa"):
            of_task = {i: s for i, s in samples.items() if s["task"] == task}
            statuses += _probe_task(store, prober, of_task, then, now, options.tokens, progress)
        counts = {"samples": len(samples), "new": sum(statuses.values()), **statuses}
        run.finish(counts, ["probes", "prompts"])
    if run.resumed and store.versions(["samples"])["samples"] != run.versions["samples"]:
        # The run that was killed is done; samples that came since are another.
        later = probe(store, options, settings, checkpoint=checkpoint, role=role, shard=shard, progress=progress)
        return {k: v + counts.get(k, 0) if k not in ("samples", "probe_id") else v for k, v in later.items()}
    return {**counts, "probe_id": prober.probe_id}


def probe_on(
    devices: Sequence[str],
    uri: str,
    options: ModelOptions,
    settings: ProbeSettings,
    checkpoint: str | None,
    role: str,
    *,
    progress: Progress = silent,
    tell: Callable[[str], None] = unsaid,
) -> dict[str, Any]:
    """Probe on several devices, one process each. See :mod:`gradstore.pipelines.shards`."""
    return on_devices(partial(_probe_shard, uri, options, settings, checkpoint, role), devices, progress, tell)


def _probe_shard(
    uri: str,
    options: ModelOptions,
    settings: ProbeSettings,
    checkpoint: str | None,
    role: str,
    device: str,
    shard: Shard,
    progress: Progress,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    store, here = GradientStore.open(uri), replace(options, device=device)
    return probe(store, here, settings, checkpoint=checkpoint, role=role, shard=shard, progress=progress)


def _probe_task(
    store: GradientStore,
    prober: Prober,
    samples: dict[str, Sample],
    then: set[str],
    now: set[str],
    batch_tokens: int,
    progress: Progress,
) -> Counter[str]:
    ids = {i: prober.encode(s) for i, s in samples.items()}
    keys = {i: [row_id(i, prober.probe_id)] for i in samples}
    drawn = {"mcqa": 1, "oeqa": prober.settings.n_samples}
    copies = drawn[next(iter(samples.values()))["task"]] if samples else 1
    reserve = prober.settings.max_new_tokens if copies > 1 else 0
    lengths = {i: len(t) + reserve for i, t in ids.items()}
    statuses: Counter[str] = Counter()
    done = sum(now.issuperset(k) for k in keys.values())
    for commit in pending(lengths, keys, then, now, batch_tokens, copies):
        rows: list[dict[str, Any]] = []
        for batch in commit:
            rows += prober.rows([samples[i] for i in batch], [ids[i] for i in batch])
            progress("probe", min(done + len(rows), len(samples)), len(samples))
        fresh = [r for r in rows if r["row_id"] not in now]
        store.write("probes", pa.Table.from_pylist(rows, schema=TABLES["probes"].schema))
        statuses.update(r["status"] for r in fresh)
        done += len(fresh)
    return statuses


def probe_identity(
    model_id: str, checkpoint_id: str | None, prompt_id: str, settings: ProbeSettings, origin: str = "gradstore"
) -> str:
    """Hash of everything that decides a probe's numbers."""
    kind = settings.certainty + (f" {settings.embedder}" if settings.certainty == "cosine" else "")
    content = {
        "model": checkpoint_id or model_id,
        "prompt_id": prompt_id,
        "n_samples": settings.n_samples,
        "temperature": settings.temperature,
        "max_new_tokens": settings.max_new_tokens,
        "seed": settings.seed,
        "certainty": kind,
        "origin": origin,
    }
    return content_id("probe", content)


def certainty_of(settings: ProbeSettings) -> Certainty | None:
    """The measure of certainty of open questions; None means agreement."""
    if settings.certainty == "agreement":
        return None
    embed = load_embedder(settings.embedder)
    return lambda texts: mean_cosine(embed(texts))
