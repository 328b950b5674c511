"""Cut work into batches. The plan depends on the wanted set alone, never on order of arrival or on workers."""

from collections.abc import Iterator, Mapping, Sequence


def plan_batches(lengths: Mapping[str, int], batch_tokens: int, copies: int = 1) -> list[list[str]]:
    """Pack ids of similar length: sorted by (length, id), at most ``batch_tokens`` padded tokens a batch.

    ``copies`` rows are made of each id (samples drawn, responses). A single id that is longer than the budget
    gets a batch of its own.
    """
    batches: list[list[str]] = []
    current: list[str] = []
    for name in sorted(lengths, key=lambda n: (lengths[n], n)):
        if current and (len(current) + 1) * lengths[name] * copies > batch_tokens:
            batches.append(current)
            current = []
        current.append(name)
    return [*batches, current] if current else batches


def group_commits(batches: Sequence[list[str]], rows: int = 512) -> Iterator[list[list[str]]]:
    """Join whole batches into commits of at least ``rows`` ids (the last may be smaller)."""
    commit: list[list[str]] = []
    for batch in batches:
        commit.append(batch)
        if sum(map(len, commit)) >= rows:
            yield commit
            commit = []
    if commit:
        yield commit
