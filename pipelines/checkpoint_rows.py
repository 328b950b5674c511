"""All rows of some checkpoints of one model under one recipe: planned, estimated, made, summed up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gradstore import runs
from gradstore.models.adapters import changes_base, load_adapter
from gradstore.models.checkpoints import Checkpoint
from gradstore.models.diagnostics import Watch, below_eps, in_words
from gradstore.models.extraction import Extractor
from gradstore.models.loading import LoadedModel
from gradstore.models.memory import estimate_bytes, find_batch_tokens, peak_bytes
from gradstore.pipelines import ModelOptions, Progress
from gradstore.pipelines.estimate import MB, Estimate
from gradstore.pipelines.gradient_rows import (
    RESPONSES,
    Lengths,
    RowMaker,
    Tally,
    measure_batches,
    plan,
    row_keys,
    write_rows,
)
from gradstore.pipelines.model import load
from gradstore.pipelines.recipes import ExtractSettings, HowToRun
from gradstore.prompts import Prompt, Sample
from gradstore.store import GradientStore


class CheckpointRows:
    """Checkpoints of one model under one recipe."""

    def __init__(
        self,
        store: GradientStore,
        loaded: LoadedModel,
        prompt: Prompt,
        recipe_id: str,
        settings: ExtractSettings,
        options: ModelOptions,
        how: HowToRun,
    ) -> None:
        self.store, self.loaded, self.prompt, self.recipe_id = store, loaded, prompt, recipe_id
        self.settings, self.options, self.how = settings, options, how
        self.watch = Watch()
        self.plan: dict[str, Any] = {}
        self.below_eps: float | None = None

    def run(
        self,
        checkpoint: Checkpoint,
        samples: dict[str, Sample],
        then: set[str],
        run: runs.Run,
        tally: Tally,
        bar: Bar,
        later: Sequence[Checkpoint],
        tell: Callable[[str], None],
    ) -> None:
        """Write what is missing of one checkpoint, commit by commit; ``later`` checkpoints come after it."""
        if not samples:  # a shard may have none
            return
        self.watch = Watch()
        with self._maker(checkpoint, tell) as maker:
            lengths = self._lengths(maker, samples, run.planned)
            batch_tokens = self.options.batch_tokens or run.planned(
                "batch_tokens", lambda: self._found_batch_tokens(maker, samples, lengths, tell)
            )
            self.plan = {"batch_tokens": batch_tokens, "shared_prompts": len(lengths.shared)}
            now = self.store.keys("gradients")
            commits = plan(maker, lengths, then, now, batch_tokens, backwards=run.resumed)
            done, wanted = sum(len(now.intersection(maker.keys(i))) for i in samples), len(RESPONSES) * len(samples)
            estimate = self._estimate(maker, samples, [checkpoint, *later], now, batch_tokens)
            tell(str(estimate))
            estimate.check()
            bar.start(done, wanted)
            write_rows(self.store, maker, samples, commits, tally, bar.show)
            self.below_eps = below_eps(self.settings.feature, checkpoint.moments)

    def estimate(
        self, checkpoints: Sequence[Checkpoint], samples: dict[str, Sample], tell: Callable[[str], None]
    ) -> dict[str, Any]:
        """What all checkpoints would take; three batches of the first are timed, and nothing is written."""
        with self._maker(checkpoints[0], tell) as maker:
            lengths = self._lengths(maker, samples, lambda _, measure: measure())
            tokens = self.options.batch_tokens or self._found_batch_tokens(maker, samples, lengths, tell)
            now = self.store.keys("gradients")
            commits = plan(maker, lengths, set(), set(), tokens, backwards=False)
            found = self._estimate(maker, samples, checkpoints, now, tokens)
            whole = measure_batches(maker, samples, commits, lengths)  # of one checkpoint
            seconds = whole * found.rows / max(1, len(RESPONSES) * len(samples))
        tell(f"{found}; about {seconds:.0f} s, from three batches")
        return found.as_dict() | {
            "seconds": round(seconds, 1),
            "batch_tokens": tokens,
            "shared_prompts": len(lengths.shared),
            "peak_mb": round(peak_bytes(self.loaded.device) / MB),
        }

    def summary(self, tally: Tally, samples: int, checkpoints: int, tell: Callable[[str], None]) -> dict[str, Any]:
        """Counts by status, rates, peak, and the diagnostics, also in words."""
        features = self.watch.report() | {"v_below_eps": self.below_eps} | tally.mean_cosines()
        for text in in_words(self.settings.feature, features) if tally.rows else ():
            tell(text)
        if bad := {k: n for k, n in tally.statuses.items() if k != "ok"}:
            listed = ", ".join(f"{n} rows are {k}" for k, n in sorted(bad.items()))
            tell(f"{listed}: stored without a vector, in no mean")
        seconds = max(tally.seconds, 1e-9)
        return {
            "samples": samples,
            "checkpoints": checkpoints,
            "new": tally.rows,
            **tally.statuses,
            "seconds": round(seconds, 1),
            "rows_per_second": round(tally.rows / seconds, 1),
            "tokens_per_second": round(tally.tokens / seconds),
            "peak_mb": round(peak_bytes(self.loaded.device) / MB),
            **self.plan,
            "features": {k: None if v is None else round(v, 4) for k, v in features.items()},
        }

    @contextmanager
    def _maker(self, checkpoint: Checkpoint, tell: Callable[[str], None]) -> Iterator[RowMaker]:
        adapted = load_adapter(self.loaded.model, checkpoint.folder)
        extractor = Extractor(
            self.loaded,
            adapted,
            checkpoint.moments,
            self.settings.feature,
            self.settings.sketch,
            reduction=self.settings.loss,
            thrifty=self.how.gradient_checkpointing,
            watch=self.watch,
        )
        try:
            tail = (checkpoint.checkpoint_id, self.recipe_id)
            yield RowMaker(extractor, self.prompt, self.options.max_length, tail, tell)
        finally:
            extractor.close()
            self.loaded.model = load(self.options).model if changes_base(adapted) else adapted.unload()

    def _lengths(self, maker: RowMaker, samples: dict[str, Sample], planned: Callable) -> Lengths:
        lengths = maker.lengths(samples, self.how.share_prompts)
        if lengths.longest is None:
            return lengths
        first, second = (item.encoded for item in maker.pair(samples[lengths.longest]))
        if planned("share_prompts", lambda: maker.extractor.can_share(first, second)):
            return lengths
        return maker.lengths(samples, share=False)

    def _found_batch_tokens(
        self, maker: RowMaker, samples: dict[str, Sample], lengths: Lengths, tell: Callable[[str], None]
    ) -> int:
        widths, shared = (lengths.shared, True) if len(lengths.shared) > len(lengths.apart) else (lengths.apart, False)
        longest = max(widths, key=lambda i: (widths[i], i))
        pair, copies = maker.pair(samples[longest]), 1 if shared else len(RESPONSES)

        extractor, extractor_watch = maker.extractor, maker.extractor.watch

        def run(tokens: int) -> None:
            pairs = [pair] * max(1, tokens // (copies * widths[longest]))
            extractor.pair_rows(pairs) if shared else extractor.rows([item for p in pairs for item in p])

        extractor.watch = None  # one sample over and over is not what a run is like
        found = find_batch_tokens(run, self.loaded.device, copies * widths[longest])
        extractor.watch = extractor_watch
        tell(f"batch tokens: {found}, found on rows of {widths[longest]} tokens; --batch-tokens {found} repeats it")
        return found

    def _estimate(
        self,
        maker: RowMaker,
        samples: dict[str, Sample],
        checkpoints: Sequence[Checkpoint],
        now: set[str],
        tokens: int,
    ) -> Estimate:
        keys = (k for c in checkpoints for i in samples for k in row_keys(i, c.checkpoint_id, self.recipe_id))
        rows = sum(k not in now for k in keys)
        wanted = len(RESPONSES) * len(samples) * len(checkpoints)
        sketch, moments = self.settings.sketch, maker.extractor.moments is not None
        memory = estimate_bytes(maker.extractor.forward.model, sketch, tokens, moments)
        return Estimate.of(self.store.uri, wanted, rows, sketch.dim, memory, self.how.shard.count)


class Bar:
    """Progress of one checkpoint: rows, and how many rows and tokens a second."""

    def __init__(self, progress: Progress, name: str, tally: Tally) -> None:
        self._progress, self._name, self._tally = progress, name, tally
        self._before = self._total = 0

    def start(self, done: int, total: int) -> None:
        self._before, self._total = done - self._tally.rows, total

    def show(self, under_way: int) -> None:
        note = f"{self._tally.tokens / max(self._tally.seconds, 1e-9):.0f} tokens/s"
        done = min(self._total, self._before + self._tally.rows + under_way)
        self._progress(self._name, done, self._total, note)
