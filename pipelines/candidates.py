"""What a selection is made from: every training sample with what probes and gradients say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl

from gradstore.errors import ProvenanceError, SelectionError, StoreError
from gradstore.selection import KNOWN, Settings, method_of, split
from gradstore.selection.released import normalised_one_after_another, shifted_flow
from gradstore.store import GradientStore, cached_vectors, read_vectors

RENORMALISED = ("cor-rait", "corcer-rait", "craft", "craft-no-flow")  # by mmlu_RAI.py


def candidates(store: GradientStore, probe_id: str, settings: Settings) -> pl.DataFrame:
    """Every training sample with what the probe says of it, and why it cannot be used, if so; sorted by id."""
    wanted = ["sample_id", "subject", "ordinal", "task", "answer"]
    samples = store.scan("samples").filter(pl.col("role") == "train").select(wanted)
    columns = ["sample_id", "correctness", "certainty", "entropy", pl.col("status").alias("probe_status")]
    reference = settings.reference and settings.method in RENORMALISED
    probed = store.scan("probes").filter(pl.col("probe_id") == probe_id)
    if reference:
        probed, columns = _with_options(probed), [*columns, "choice_probs", "option_mass"]
    probed = probed.select(columns)
    frame = samples.collect().join(probed.collect(), on="sample_id", how="left").sort("sample_id")
    if reference:
        frame = _renormalised(frame)
    if frame.height == 0:
        raise StoreError(f"no samples of role train in {store.uri}: `gradstore ingest {store.uri} FILE`")
    problem = (
        pl.when(pl.col("probe_status").is_null())
        .then(pl.lit("not-probed"))
        .when(pl.col("probe_status") != "ok")
        .then(pl.lit("probe-") + pl.col("probe_status"))
        .otherwise(None)
    )
    choice = (pl.col("task") == "mcqa").alias("choice")
    return frame.with_columns(problem=problem, choice=choice).drop("probe_status", "task", "answer")


def _with_options(probed: pl.LazyFrame) -> pl.LazyFrame:
    """With ``option_mass``, null in a store that was made before probes had it."""
    old = "option_mass" not in probed.collect_schema().names()
    return probed.with_columns(option_mass=pl.lit(None, pl.Float32)) if old else probed


def _renormalised(frame: pl.DataFrame) -> pl.DataFrame:
    """Correctness of multiple choice as mmlu_RAI.py has it: see ``released.normalised_one_after_another``.

    An older probe has no ``option_mass``; its options are taken to hold all of the probability, which hides the bug.
    """

    def gold(row: dict) -> float | None:
        if row["choice_probs"] is None:
            return row["correctness"]
        raw = np.array(row["choice_probs"]) * (1.0 if row["option_mass"] is None else row["option_mass"])
        return float(normalised_one_after_another(raw)[ord(row["answer"]) - ord("A")])

    values = [gold(row) for row in frame.iter_rows(named=True)]
    return frame.with_columns(correctness=pl.Series(values, dtype=pl.Float32)).drop("choice_probs", "option_mass")


def with_flow(
    store: GradientStore,
    frame: pl.DataFrame,
    probe: Mapping[str, str],
    settings: Settings,
    checkpoints: Sequence[str] = (),
) -> pl.DataFrame:
    """Add ``flow``, the change of correctness through rehearsal (CRaFT Alg. 1: Cor(M̃) − Cor(M₀)).

    The rehearsed model's probe is the one of a checkpoint (of ``checkpoints``, where those are given) of the same
    model, asked in the same way. Raises StoreError where there is none, ProvenanceError where there are several.
    """
    probes = store.scan("probes").filter(
        pl.col("checkpoint_id").is_not_null(),
        pl.col("model_id") == probe["model_id"],
        pl.col("prompt_id") == probe["prompt_id"],
    )
    if checkpoints:
        probes = probes.filter(pl.col("checkpoint_id").is_in(list(checkpoints)))
    found = probes.select("probe_id", "checkpoint_id").unique().sort("probe_id").collect()
    if found.height == 0:
        raise StoreError(
            f"method {settings.method} needs the knowledge after rehearsal: run "
            f"`gradstore probe {store.uri} --model M --checkpoint WARMUP/epoch-N` with the first probe's settings"
        )
    if found.height > 1:
        listed = ", ".join(f"{p} of checkpoint {c}" for p, c in found.iter_rows())
        raise ProvenanceError(
            f"{found.height} probes after rehearsal fit, expected one: {listed}; name one with --checkpoint"
        )
    after = probes.filter(pl.col("status") == "ok")
    if settings.reference and settings.method in RENORMALISED:
        answers = store.scan("samples").select("sample_id", "answer")
        after = _renormalised(_with_options(after).join(answers, on="sample_id").collect()).lazy()
    rehearsed = after.select("sample_id", rehearsed="correctness").collect()
    frame = frame.join(rehearsed, on="sample_id", how="left").with_columns(
        flow=pl.col("rehearsed").cast(pl.Float64) - pl.col("correctness").cast(pl.Float64)
    )
    if settings.reference:
        frame = _shifted(frame)
    return frame.drop("rehearsed").sort("sample_id")


def _shifted(frame: pl.DataFrame) -> pl.DataFrame:
    """The released alignment by position of open questions: question i against the rehearsal of question ⌊i/10⌋."""
    open_ = frame.filter(~pl.col("choice"), pl.col("rehearsed").is_not_null()).sort("ordinal")
    flow = shifted_flow(open_["correctness"].cast(pl.Float64).to_numpy(), open_["rehearsed"].to_numpy())
    shifted = open_.select("sample_id", shifted=pl.Series(flow))
    joined = frame.join(shifted, on="sample_id", how="left")
    return joined.with_columns(flow=pl.coalesce("shifted", "flow")).drop("shifted")


def note_gradients(
    store: GradientStore, frame: pl.DataFrame, recipe_id: str, checkpoints: Sequence[str], settings: Settings
) -> pl.DataFrame:
    """Note what makes a sample unusable: it needs an ok refusal gradient at every checkpoint, since all are scored by
    it; a known one also an ok answer gradient, since that is the row that is trained on."""
    rows = store.scan(f"gradients_{recipe_id}").filter(pl.col("checkpoint_id").is_in(list(checkpoints)))
    found = rows.select("sample_id", "response", "status").collect()
    boundary = method_of(settings).boundary
    is_known = split(pl.col("correctness"), settings.threshold, boundary) == KNOWN
    for response, needed in (("refusal", pl.lit(True)), ("answer", is_known)):
        side = found.filter(pl.col("response") == response).group_by("sample_id")
        status = side.agg(
            bad=pl.col("status").filter(pl.col("status") != "ok").min(), good=(pl.col("status") == "ok").sum()
        )
        gradient = (
            pl.when(pl.col("bad").is_not_null())
            .then(pl.lit("gradient-") + pl.col("bad"))
            .when(pl.col("good").fill_null(0) < len(checkpoints))
            .then(pl.lit("no-gradient"))
        )
        problem = pl.coalesce("problem", pl.when(needed.fill_null(False)).then(gradient))
        frame = frame.join(status, on="sample_id", how="left").with_columns(problem=problem).drop("bad", "good")
    return frame.sort("sample_id")


@dataclass
class StoredVectors:
    """The gradients of the candidates, from the store's cache, for rules that ask for them again and again.

    Several checkpoints are laid side by side, each scaled by √η_c, so that a product of two rows is
    Σ_c η_c <u_i^c, u_j^c> (LESS eq. 3) and a row has unit norm. Memory: n · checkpoints · dim · 2 bytes a response.
    """

    store: GradientStore
    recipe_id: str
    weights: Mapping[str, float]
    ids: frozenset[str]
    keep: bool = True

    def __post_init__(self) -> None:
        self._held: dict[str, tuple[dict[str, int], np.ndarray]] = {}

    def __call__(self, ids: Sequence[str], response: str) -> np.ndarray:
        """Rows (n, checkpoints·dim) uint16, in the order of ``ids``. Raises SelectionError where one is missing."""
        if response not in self._held:
            self._held[response] = self._read(response)
        at, rows = self._held[response]
        if missing := [i for i in ids if i not in at]:
            raise SelectionError(
                f"{len(missing)} of {len(ids)} samples have no usable {response} gradient, the first is {missing[0]}: "
                "extract them, or leave that rule"
            )
        return rows[[at[i] for i in ids]]

    def _read(self, response: str) -> tuple[dict[str, int], np.ndarray]:
        """Where each wanted sample's row is, and the rows: mapped from the cache, or several laid side by side."""
        read = cached_vectors if self.keep else partial(read_vectors, wanted=self.ids)
        parts = [
            read(self.store, self.recipe_id, f"checkpoint_id = '{c}' AND response = '{response}'") for c in self.weights
        ]
        if not all(ids for ids, _ in parts):
            raise StoreError(f"no {response} gradients under this recipe: run `gradstore extract` first")
        places = [{i: n for n, i in enumerate(ids) if i in self.ids} for ids, _ in parts]
        if len(parts) == 1:
            return places[0], parts[0][1]
        whole = sorted(set.intersection(*(set(p) for p in places)))
        scaled = [
            (rows[[at[i] for i in whole]].view(np.float16).astype(np.float32) * weight**0.5).astype(np.float16)
            for at, (_, rows), weight in zip(places, parts, self.weights.values(), strict=True)
        ]
        return {i: n for n, i in enumerate(whole)}, np.concatenate(scaled, axis=1).view(np.uint16)
