"""One checkpoint under one recipe: which rows are missing, in which batches, and the batches turned into rows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pyarrow as pa

from gradstore.errors import ResourceError
from gradstore.identity import row_id
from gradstore.models.encoding import encode, encode_prompt
from gradstore.models.extraction import Extractor, Item
from gradstore.models.losses import shared_tokens, sharing_pays
from gradstore.models.memory import is_out_of_memory, release
from gradstore.pipelines.overlap import Behind, ahead
from gradstore.pipelines.work import pending
from gradstore.prompts import Prompt, Sample
from gradstore.store import GradientStore

RESPONSES = ("answer", "refusal")
Pair = tuple[Item, Item]  # the two responses of one sample


@dataclass(frozen=True)
class Batch:
    """Samples whose rows are made together; ``shared``: each prompt goes through the model once."""

    ids: list[str]
    shared: bool


@dataclass(frozen=True)
class Lengths:
    """Tokens of the widest row of each sample, by how its batch is made. Nothing else is kept of the token ids."""

    shared: dict[str, int]
    apart: dict[str, int]
    longest: str | None  # the sample with the longest shared row

    def batch_tokens(self, batch: Batch) -> int:
        """Padded tokens of a batch."""
        widths = self.shared if batch.shared else self.apart
        return max(widths[i] for i in batch.ids) * len(batch.ids) * (1 if batch.shared else len(RESPONSES))


@dataclass
class Tally:
    """What a run has made: rows by status, tokens, and the sum of unit vectors by response."""

    statuses: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    sums: dict[str, np.ndarray] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    too_large: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    @property
    def rows(self) -> int:
        return sum(self.statuses.values())

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def add(self, rows: pa.Table) -> None:
        """Count rows that are new."""
        self.statuses.update(rows["status"].to_pylist())
        good = rows.filter(pa.compute.equal(rows["status"], "ok"))
        for response in RESPONSES:
            vectors = good.filter(pa.compute.equal(good["response"], response))["vector"].combine_chunks()
            if len(vectors):
                block = vectors.flatten().to_numpy().reshape(len(vectors), -1)
                total = self.sums.setdefault(response, np.zeros(block.shape[1]))
                total += block.sum(axis=0, dtype=np.float64)
                self.counts[response] += len(vectors)

    def check(self) -> None:
        """Raises ResourceError where samples were left out for want of memory."""
        if self.too_large:
            raise ResourceError(
                f"{len(self.too_large)} samples do not fit in memory even alone, first {self.too_large[0]}; the "
                "others are written. For the rest: --gradient-checkpointing, a narrower --dtype, or a larger device"
            )

    def mean_cosines(self) -> dict[str, float | None]:
        """Mean cosine of two different rows of a response: (|Σu|² − n) / (n(n−1)) of unit vectors u."""
        found: dict[str, float | None] = {}
        for response in RESPONSES:
            n = self.counts[response]
            square = float(self.sums[response] @ self.sums[response]) if n else 0.0
            found[f"mean_cosine_{response}"] = (square - n) / (n * (n - 1)) if n > 1 else None
        return found


def row_keys(sample_id: str, checkpoint_id: str, recipe_id: str) -> list[str]:
    """The ids of a sample's rows at a checkpoint, under a recipe."""
    return [row_id(sample_id, r, checkpoint_id, recipe_id) for r in RESPONSES]


class RowMaker:
    """Samples → gradient rows through one extractor. A batch that does not fit in memory is halved, and said so."""

    def __init__(
        self,
        extractor: Extractor,
        prompt: Prompt,
        max_length: int,
        tail: tuple[str, str],
        tell: Callable[[str], None],
    ) -> None:
        self.extractor, self.prompt, self.max_length, self.tell = extractor, prompt, max_length, tell
        self.tail = tail  # checkpoint_id, recipe_id
        self.too_large: list[str] = []
        self._most: int | None = None  # pairs times their longest row, of the largest batch that may fit

    def pair(self, sample: Sample) -> Pair:
        """A sample under both responses."""
        asked, tokenizer = self.prompt.ask(sample), self.extractor.loaded.tokenizer
        before = encode_prompt(tokenizer, asked)
        replies = [self.prompt.reply(sample, self.prompt.response_text(sample, r)) for r in RESPONSES]
        first, second = (
            Item(sample["sample_id"], r, encode(tokenizer, asked, reply, self.max_length, before))
            for r, reply in zip(RESPONSES, replies, strict=True)
        )
        return first, second

    def keys(self, sample_id: str) -> list[str]:
        """The ids of a sample's rows."""
        return row_keys(sample_id, *self.tail)

    def lengths(self, samples: Mapping[str, Sample], share: bool) -> Lengths:
        """Tokenise once to plan; batches tokenise again, beside the device's work, so that no ids are kept."""
        shared, apart, longest = {}, {}, (0, "")
        for name, sample in samples.items():
            first, second = (item.encoded for item in self.pair(sample))
            apart[name] = max(len(first.ids), len(second.ids), 1)
            if share and first.status == second.status == "ok" and sharing_pays(first, second):
                shared[name] = len(first.ids) + len(second.ids) - shared_tokens(first, second)
                longest = max(longest, (shared[name], name))
        return Lengths(shared, {i: n for i, n in apart.items() if i not in shared}, longest[1] or None)

    def rows(self, pairs: Sequence[Pair], shared: bool) -> pa.Table:
        """Rows of some samples, with their keys. Samples that do not fit in memory alone are noted, and left out."""
        parts = list(self._parts(pairs, shared)) or [self.extractor.rows([])]
        return pa.concat_tables(self._with_keys(part) for part in parts)

    def _parts(self, pairs: Sequence[Pair], shared: bool) -> Iterator[pa.Table]:
        size = len(pairs) * max(len(i.encoded.ids) for p in pairs for i in p)
        if self._most is None or size <= self._most or len(pairs) == 1:
            done = self._attempt(pairs, shared)
            if done is not None:
                yield done
                return
            if len(pairs) == 1:
                yield from self._singly(pairs[0], shared)
                return
            self._most = size // 2
            self.tell(f"a batch of {len(pairs)} samples did not fit in memory: halved, from here on")
        middle = len(pairs) // 2
        yield from self._parts(pairs[:middle], shared)
        yield from self._parts(pairs[middle:], shared)

    def _singly(self, pair: Pair, shared: bool) -> Iterator[pa.Table]:
        """One sample that did not fit: its responses one by one, and if that fails it is noted."""
        done = [self._attempt([pair], False)] if shared else [None]
        if done[0] is None:
            done = [self._attempt([(item,)], False) for item in pair]
        if None in done:
            self.too_large.append(pair[0].sample_id)
        yield from (table for table in done if table is not None)

    def _attempt(self, pairs: Sequence[Sequence[Item]], shared: bool) -> pa.Table | None:
        try:
            if shared:
                return self.extractor.pair_rows([(first, second) for first, second in pairs])
            return self.extractor.rows([item for pair in pairs for item in pair])
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        release(self.extractor.loaded.device)  # here, where the failed batch is no longer held by its traceback
        return None

    def _with_keys(self, rows: pa.Table) -> pa.Table:
        pairs = zip(rows["sample_id"].to_pylist(), rows["response"].to_pylist(), strict=True)
        rows = rows.append_column("row_id", pa.array([row_id(i, r, *self.tail) for i, r in pairs], pa.string()))
        rows = rows.append_column("checkpoint_id", pa.array([self.tail[0]] * rows.num_rows, pa.string()))
        return rows.append_column("recipe_id", pa.array([self.tail[1]] * rows.num_rows, pa.string()))


def plan(
    maker: RowMaker, lengths: Lengths, then: set[str], now: set[str], batch_tokens: int, backwards: bool
) -> list[list[Batch]]:
    """The commits still to be made. A resumed run takes them from the end: should the run that it resumes be alive
    after all, the two meet in the middle instead of doing the same work side by side."""
    found: list[list[Batch]] = []
    for widths, shared, copies in ((lengths.shared, True, 1), (lengths.apart, False, len(RESPONSES))):
        keys = {i: maker.keys(i) for i in widths}
        for commit in pending(widths, keys, then, now, batch_tokens, copies):
            found.append([Batch(ids, shared) for ids in commit])
    return found[::-1] if backwards else found


def write_rows(
    store: GradientStore,
    maker: RowMaker,
    samples: Mapping[str, Sample],
    commits: Sequence[Sequence[Batch]],
    tally: Tally,
    progress: Callable[[int], None],
) -> None:
    """Make the rows of all commits and write them, tokenising ahead of the device and writing behind it."""

    def ready() -> Iterator[tuple[bool, bool, list[Pair]]]:
        """Whether a batch is its commit's last, whether its prompts are shared, and its pairs, tokenised."""
        for commit in commits:
            wanted = [k for batch in commit for i in batch.ids for k in maker.keys(i)]
            if len(store.held(maker.tail[1], wanted)) == len(wanted):
                continue  # another extractor was here in the meantime
            for n, batch in enumerate(commit, start=1):
                yield n == len(commit), batch.shared, [maker.pair(samples[i]) for i in batch.ids]

    def write(rows: pa.Table) -> None:
        there = store.held(maker.tail[1], rows["row_id"].to_pylist())
        store.write("gradients", rows)
        tally.add(rows.filter(pa.array([k not in there for k in rows["row_id"].to_pylist()])))

    parts: list[pa.Table] = []
    with Behind(write) as later:
        try:
            for last, shared, pairs in ahead(ready()):
                parts.append(maker.rows(pairs, shared))
                tally.tokens += sum(len(item.encoded.ids) for pair in pairs for item in pair)
                progress(sum(p.num_rows for p in parts) if not last else 0)
                if last:
                    later(pa.concat_tables(parts))
                    parts = []
        finally:
            tally.too_large += maker.too_large
            maker.too_large = []


def measure_batches(
    maker: RowMaker, samples: Mapping[str, Sample], commits: Sequence[Sequence[Batch]], lengths: Lengths
) -> float:
    """Seconds that all commits will take, from their first, middle and last batch; nothing is written."""
    batches = list(chain.from_iterable(commits))
    seconds, tokens = 0.0, 0
    if batches:  # compiles kernels and makes hashes, which a run does once
        maker.rows([maker.pair(samples[batches[0].ids[0]])], batches[0].shared)
    for batch in {0: 0, len(batches) // 2: 0, len(batches) - 1: 0} if batches else ():
        pairs = [maker.pair(samples[i]) for i in batches[batch].ids]
        started = time.perf_counter()
        maker.rows(pairs, batches[batch].shared)
        seconds += time.perf_counter() - started
        tokens += lengths.batch_tokens(batches[batch])
    return seconds / max(1, tokens) * sum(lengths.batch_tokens(b) for b in batches)
