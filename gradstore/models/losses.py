"""Forwards of a batch, to each sample's loss; logits only where a labelled token is predicted.

A prompt with two responses can go through the model once: [prompt, answer, refusal], where the refusal does not see
the answer and takes positions as if it followed the prompt. Two backwards then tell the responses apart. In tokens of
one pass, forward once and backward twice cost 3·(prompt + answer + refusal), against 4·prompt + 2·(answer + refusal).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gradstore.models.encoding import IGNORED, Encoded, common_prefix, pad, padding_mask, positions

REDUCTIONS = ("mean", "sum")
SHARES_PROMPTS = ("sdpa", "eager")  # attention implementations that take a mask of their caller's


@dataclass(frozen=True)
class Forward:
    """How a model is asked. ``reduction``: a sample's loss is the mean, or the sum, over its labelled tokens, in
    nats. ``all_logits``: the output layer is trained, so its input must keep the shape of the batch."""

    model: Any
    pad_id: int
    device: torch.device
    reduction: str = "mean"
    attention: str = "sdpa"
    all_logits: bool = False

    def losses(self, batch: Sequence[Encoded], side: str = "right") -> torch.Tensor:
        """One row a sample, padded on ``side``: (b,) float32."""
        ids = pad([e.ids for e in batch], self.pad_id, side).to(self.device)
        mask = padding_mask([e.ids for e in batch], side).to(self.device)
        labels = pad([[IGNORED, *e.labels[1:]] for e in batch], IGNORED, side)  # the first is nobody's prediction
        rows, columns = (labels != IGNORED).nonzero(as_tuple=True)
        logits = self._logits(ids, mask, positions(mask), rows, columns - 1)
        return self._reduced(logits, labels[rows, columns], rows, len(batch))

    def shared_losses(self, pairs: Sequence[tuple[Encoded, Encoded]]) -> list[torch.Tensor]:
        """One row a pair of responses to one prompt: the losses of the first responses, and of the second, (b,)."""
        layouts = [_Layout.of(*pair) for pair in pairs]
        ids = pad([x.ids for x in layouts], self.pad_id).to(self.device)
        places = pad([x.positions for x in layouts], 0).to(self.device)
        predicted = [p for k in (0, 1) for p in _predicted(layouts, k)]  # (row, column it is read at, token)
        kept = sorted({(row, column) for row, column, _ in predicted})
        at = {place: n for n, place in enumerate(kept)}
        rows, columns = torch.tensor(kept).T
        logits = self._logits(ids, _tree_mask(layouts, self).to(self.device), places, rows, columns)
        losses = []
        for k in (0, 1):
            found = list(_predicted(layouts, k))
            chosen = logits[torch.tensor([at[row, column] for row, column, _ in found], device=self.device)]
            of_row = torch.tensor([row for row, _, _ in found])
            losses.append(self._reduced(chosen, torch.tensor([t for _, _, t in found]), of_row, len(pairs)))
        return losses

    def _logits(
        self, ids: torch.Tensor, mask: torch.Tensor, places: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
    ) -> torch.Tensor:
        """Logits at the (row, column) given, in row-major order: (n, vocabulary)."""
        keep = torch.zeros(ids.shape, dtype=torch.bool)
        keep[rows, columns] = True
        keep = keep.to(self.device)
        asked = {"input_ids": ids, "attention_mask": mask, "position_ids": places, "use_cache": False}
        if self.all_logits:
            return self.model(**asked).logits[keep]
        return self.model(**asked, logits_to_keep=keep).logits

    def _reduced(self, logits: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
        """Losses of ``count`` samples from the logits of all their tokens; ``rows`` (n,) ascends."""
        nats = nn.functional.cross_entropy(logits.float(), targets.to(self.device), reduction="none")
        lengths = torch.bincount(rows, minlength=count)
        within = torch.arange(len(rows)) - (lengths.cumsum(0) - lengths)[rows]
        # A padded table rather than index_add, which is not deterministic on CUDA.
        table = nats.new_zeros(count, int(lengths.max()))
        totals = table.index_put((rows.to(self.device), within.to(self.device)), nats).sum(dim=1)
        return totals / lengths.clamp(min=1).to(totals) if self.reduction == "mean" else totals


@dataclass(frozen=True)
class _Layout:
    """[prompt | first tail | second tail] of one pair, and the position of each token in its own sequence."""

    ids: list[int]
    positions: list[int]
    prompt: int
    tails: tuple[int, int]
    starts: tuple[int, int]  # where labels begin, in each sequence of its own

    @classmethod
    def of(cls, first: Encoded, second: Encoded) -> _Layout:
        c = shared_tokens(first, second)
        ids = first.ids + second.ids[c:]
        places = [*range(len(first.ids)), *range(c, len(second.ids))]
        tails = (len(first.ids) - c, len(second.ids) - c)
        return cls(ids, places, c, tails, (first.start, second.start))


def shared_tokens(first: Encoded, second: Encoded) -> int:
    """Leading tokens that both sequences have and neither's loss is about."""
    return min(common_prefix([first.ids, second.ids]), first.start, second.start)


def sharing_pays(first: Encoded, second: Encoded) -> bool:
    """Whether one row costs less than two: 3·(c + tails) < 4·c + 2·tails."""
    c = shared_tokens(first, second)
    return c > len(first.ids) + len(second.ids) - 2 * c


def _predicted(layouts: Sequence[_Layout], k: int) -> list[tuple[int, int, int]]:
    """Labelled tokens of the k-th responses: row, column whose logits predict the token, token id."""
    found = []
    for row, x in enumerate(layouts):
        begin = x.prompt + (x.tails[0] if k else 0)  # column of the tail's first token
        for offset in range(x.starts[k] - x.prompt, x.tails[k]):
            column = begin + offset - 1 if offset else x.prompt - 1
            found.append((row, column, x.ids[begin + offset]))
    return found


def _tree_mask(layouts: Sequence[_Layout], forward: Forward) -> torch.Tensor:
    """Who sees whom, (b, 1, t, t): causal, and the second tail does not see the first."""
    width = max(len(x.ids) for x in layouts)
    mask = torch.ones(width, width, dtype=torch.bool).tril().repeat(len(layouts), 1, 1, 1)
    for row, x in enumerate(layouts):
        second = x.prompt + x.tails[0]
        mask[row, :, second:, x.prompt : second] = False
    if forward.attention != "eager":
        return mask
    kind = next(forward.model.parameters()).dtype
    return torch.zeros(mask.shape, dtype=kind).masked_fill(~mask, torch.finfo(kind).min)
