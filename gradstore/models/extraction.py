"""Batches of encoded samples → rows of the ``gradients`` table, through one checkpoint and one recipe."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from gradstore.errors import CheckpointError
from gradstore.models.adapters import trained_sites
from gradstore.models.diagnostics import Watch
from gradstore.models.encoding import Encoded
from gradstore.models.features import Direction, Moments, direction
from gradstore.models.gradients import GradientHooks, loss_scale
from gradstore.models.loading import LoadedModel, checkpoint_activations
from gradstore.models.losses import SHARES_PROMPTS, Forward
from gradstore.models.projection import Projector
from gradstore.sketch import Sketch

# of a loss, relative: of sharing against two rows; of a change to the first response on the second's loss
SHARING_TOLERANCE = {"float32": (1e-4, 1e-5), "bfloat16": (3e-2, 2e-3), "float16": (1e-2, 5e-4)}


@dataclass(frozen=True)
class Item:
    """One sample under one response."""

    sample_id: str
    response: str
    encoded: Encoded


class Extractor:
    """A model with its adapter, hooked once, that turns batches into gradient rows. Close it to free the model.

    ``reduction`` of a sample's loss: mean | sum over its tokens; ``backend``: see :class:`Projector`; ``thrifty``
    computes activations twice rather than keep them; ``watch`` is shown the first gradients.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        adapted: Any,
        moments: Moments | None,
        feature: str,
        sketch: Sketch,
        *,
        reduction: str = "mean",
        backend: str = "auto",
        thrifty: bool = False,
        watch: Watch | None = None,
    ) -> None:
        adapted.eval()  # dropout off: a gradient is a property of the sample, not of a mask
        adapted.requires_grad_(False)
        if thrifty:
            checkpoint_activations(adapted)
        if loaded.device.type == "cuda":  # or the backward of attention adds in any order
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it only costs time
        self.loaded = loaded
        self.feature = feature
        self.moments = moments
        self.projector = Projector(sketch, loaded.device, backend)
        sites = trained_sites(adapted)
        head = adapted.get_output_embeddings()
        self.forward = Forward(
            adapted,
            loaded.pad_id,
            loaded.device,
            reduction,
            loaded.attention,
            all_logits=any(site.module in set(head.modules()) for site in sites),
        )
        self.hooks = GradientHooks(sites, loss_scale(loaded.dtype))
        self.watch = watch
        self._directions: dict[str, Direction] = {}

    def close(self) -> None:
        """Take the hooks off the model."""
        self.hooks.remove()

    def direction(self, name: str) -> Direction:
        """Γ of one parameter, made once."""
        if name not in self._directions:
            self._directions[name] = direction(self.feature, name, self.moments, self.loaded.device)
        return self._directions[name]

    def rows(self, items: Sequence[Item], side: str = "right") -> pa.Table:
        """One row an item: sample_id, response, vector (dim float16, unit norm), norm, loss, n_tokens, status."""
        good = [item for item in items if item.encoded.status == "ok"]
        if not good:
            return self._table(items, [], *self._nothing())
        return self._table(items, good, *self.sketches([i.encoded for i in good], side))

    def pair_rows(self, pairs: Sequence[tuple[Item, Item]]) -> pa.Table:
        """The same for two responses to one prompt each, both ok: the prompt goes through the model once."""
        found = self.shared_sketches([(a.encoded, b.encoded) for a, b in pairs])
        items = [pair[k] for k in (0, 1) for pair in pairs]
        return self._table(items, items, *(torch.cat(halves) for halves in zip(*found, strict=True)))

    def sketches(self, batch: Sequence[Encoded], side: str = "right") -> tuple[torch.Tensor, torch.Tensor]:
        """Sketched features (b, dim) float32 and losses (b,) float32 of a batch, on the model's device."""
        with self.hooks.recording(len(batch)), torch.enable_grad():
            losses = self.forward.losses(batch, side)
            return self._sketched(losses), losses.detach()

    def shared_sketches(self, pairs: Sequence[tuple[Encoded, Encoded]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Sketches and losses of the first responses, then of the second."""
        with self.hooks.recording(len(pairs)), torch.enable_grad():
            first, second = self.forward.shared_losses(pairs)
            return [(self._sketched(first, keep_graph=True), first.detach()), (self._sketched(second), second.detach())]

    def can_share(self, first: Encoded, second: Encoded) -> bool:
        """Whether this model gives both responses the same losses when their prompt goes through it once. It does not
        where attention is not told by a mask alone: ALiBi, recurrent layers, a window shorter than the row."""
        if self.loaded.attention not in SHARES_PROMPTS:
            return False
        window = getattr(self.loaded.model.config.get_text_config(), "sliding_window", None)
        if window and window < len(first.ids) + len(second.ids):
            return False
        longer = Encoded([*first.ids, *first.ids[first.start :], first.ids[0]], first.start, "ok")
        with torch.no_grad():
            apart = torch.cat([self.forward.losses([e]) for e in (first, second)])
            try:
                together = torch.cat(self.forward.shared_losses([(first, second)]))
                unseen = self.forward.shared_losses([(longer, second)])[1]
            except Exception:  # a model that takes no mask of its caller's says so in many ways
                return False
        tolerance, leak = SHARING_TOLERANCE[self.loaded.dtype.split("/")[0]]
        same = (together - apart).abs() <= tolerance * apart.abs()
        # What the first response is must not matter to the second at all; a mean loss alone might hide a leak.
        return bool(same.all()) and bool((unseen - together[1:]).abs() <= leak * together[1:].abs())

    def _sketched(self, losses: torch.Tensor, keep_graph: bool = False) -> torch.Tensor:
        sketches = self.projector.zeros(len(losses))
        watch = self.watch if self.watch is not None and not self.watch.full else None

        def add(name: str, rows: slice, gradients: torch.Tensor) -> None:
            """Sketch the gradients of one parameter for some of the rows."""
            feature = self.direction(name)
            if feature.v.numel() not in (0, gradients[0].numel()):
                raise CheckpointError(
                    f"the moments of {name} are {feature.v.numel()} numbers, the parameter has {gradients[0].numel()}: "
                    "they belong to another adapter"
                )
            self.projector.add(sketches[rows], name, gradients, feature)
            if watch is not None:
                watch.see(rows.start, gradients, feature)

        if watch is not None:
            watch.begin()
        self.hooks.backward(losses, add, keep_graph)
        if watch is not None:
            watch.end()
        return sketches

    def _nothing(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.projector.zeros(0), torch.zeros(0)

    def _table(
        self, items: Sequence[Item], good: Sequence[Item], sketches: torch.Tensor, losses: torch.Tensor
    ) -> pa.Table:
        vectors, norms, loss, status = _normalise(sketches, losses)
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
                "loss": pa.array([None if n is None else loss[n] for n in usable], pa.float32()),
                "n_tokens": pa.array([i.encoded.n_labels for i in items], pa.int32()),
                "status": kept,
            }
        )


def _normalise(sketches: torch.Tensor, losses: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Unit rows as float16, norms and losses as float32, and a status each; norms are summed in float64."""
    norms = torch.linalg.vector_norm(sketches, dim=1, dtype=torch.float64)
    finite = norms.isfinite() & losses.isfinite()
    safe = torch.where(finite & (norms > 0), norms, 1.0)
    vectors = (sketches / safe[:, None].float()).half()  # on the device, so that half as many bytes leave it
    kept, seen = finite.cpu().numpy(), norms.cpu().numpy()
    status = np.where(~kept, "nan", np.where(seen == 0, "zero", "ok")).tolist()
    return vectors.cpu().numpy(), seen.astype(np.float32), losses.float().cpu().numpy(), status


def _vectors(vectors: np.ndarray, rows: Sequence[int | None]) -> pa.FixedSizeListArray:
    """The chosen rows as fixed-size lists; null where there is none."""
    dim = vectors.shape[1]
    taken = np.zeros((len(rows), dim), np.float16)
    present = np.array([n is not None for n in rows], dtype=bool)
    taken[present] = vectors[[n for n in rows if n is not None]]
    return pa.FixedSizeListArray.from_arrays(pa.array(taken.ravel()), dim, mask=pa.array(~present))
