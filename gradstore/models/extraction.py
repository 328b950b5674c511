"""Batches of encoded samples → rows of the ``gradients`` table, through one checkpoint and one recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from gradstore.models.adapters import lora_linears
from gradstore.models.encoding import Encoded
from gradstore.models.features import Moments, direction
from gradstore.models.gradients import GradientHooks, backward
from gradstore.models.loading import LoadedModel
from gradstore.models.projection import Projector
from gradstore.sketch import Sketch


@dataclass(frozen=True)
class Item:
    """One sample under one response."""

    sample_id: str
    response: str
    encoded: Encoded


class Extractor:
    """A model with its adapter, hooked once, that turns batches into gradient rows."""

    def __init__(
        self, loaded: LoadedModel, adapted: Any, moments: Moments | None, feature: str, sketch: Sketch
    ) -> None:
        adapted.eval()  # dropout off: a gradient is a property of the sample, not of a mask
        adapted.requires_grad_(False)
        self.model = adapted
        self.loaded = loaded
        self.feature = feature
        self.moments = _on_device(moments, loaded.device)
        self.projector = Projector(sketch, loaded.device)
        self.linears = lora_linears(adapted)

    def rows(self, items: Sequence[Item], side: str = "right") -> pa.Table:
        """One row an item: sample_id, response, vector (dim float16, unit norm), norm, loss, n_tokens, status."""
        good = [item for item in items if item.encoded.status == "ok"]
        sketches, losses = self._sketch([i.encoded for i in good], side) if good else (None, None)
        vectors, norms, status = _normalise(sketches, losses, self.projector.sketch.dim)
        done = {(i.sample_id, i.response): n for n, i in enumerate(good)}
        at = [done.get((i.sample_id, i.response)) for i in items]
        kept = [status[n] if n is not None else item.encoded.status for n, item in zip(at, items, strict=True)]
        usable = [n if n is not None and status[n] == "ok" else None for n in at]
        return pa.table(
            {
                "sample_id": [i.sample_id for i in items],
                "response": [i.response for i in items],
                "vector": _vectors(vectors, usable),
                "norm": pa.array([None if n is None else norms[n] for n in usable], pa.float32()),
                "loss": pa.array([None if n is None else losses[n] for n in usable], pa.float32()),  # type: ignore[index]
                "n_tokens": pa.array([i.encoded.n_labels for i in items], pa.int32()),
                "status": kept,
            }
        )

    def _sketch(self, batch: Sequence[Encoded], side: str) -> tuple[np.ndarray, np.ndarray]:
        pad_id = self.loaded.pad_id
        with GradientHooks(self.linears) as hooks:
            losses = backward(self.model, batch, pad_id=pad_id, device=self.loaded.device, side=side)
            sketches = self.projector.zeros(len(batch))
            for name, gradients in hooks.gradients():
                self.projector.add(sketches, name, direction(self.feature, name, gradients, self.moments))
        return sketches.T.cpu().numpy(), losses.cpu().numpy()


def _normalise(
    sketches: np.ndarray | None, losses: np.ndarray | None, dim: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Unit rows as float16, norms as float32, and a status each; norms are taken in float64."""
    if sketches is None or losses is None:
        return np.zeros((0, dim), np.float16), np.zeros(0, np.float32), []
    norms = np.linalg.norm(sketches.astype(np.float64), axis=1)
    finite = np.isfinite(norms) & np.isfinite(losses)
    status = np.where(~finite, "nan", np.where(norms == 0, "zero", "ok"))
    safe = np.where(status == "ok", norms, 1.0)
    with np.errstate(invalid="ignore", over="ignore"):
        vectors = (sketches / safe[:, None]).astype(np.float16)
    return vectors, norms.astype(np.float32), status.tolist()


def _vectors(vectors: np.ndarray, rows: Sequence[int | None]) -> pa.FixedSizeListArray:
    """The chosen rows as fixed-size lists; null where there is none."""
    dim = vectors.shape[1]
    taken = np.zeros((len(rows), dim), np.float16)
    present = np.array([n is not None for n in rows])
    taken[present] = vectors[[n for n in rows if n is not None]]
    return pa.FixedSizeListArray.from_arrays(pa.array(taken.ravel()), dim, mask=pa.array(~present))


def _on_device(moments: Moments | None, device: torch.device) -> Moments | None:
    if moments is None:
        return None
    moved = {n: (m.to(device), v.to(device)) for n, (m, v) in moments.by_name.items()}
    return Moments(moved, moments.step, moments.beta1, moments.beta2, moments.eps)
