"""The epoch from which the workers of a group go on together, each in a store of its own."""

from __future__ import annotations

import torch.distributed as dist

from recis._collectives import gather

Commits = list[tuple[int, int]]
"""What a store can be opened at, epochs and their steps, the older first."""

_START = (0, None)  # as it was before the first commit


def common_epoch(path: str, mine: Commits | Exception, group: dist.ProcessGroup | None) -> int:
    """The newest epoch of this worker's store whose step the stores of all workers have.

    A collective, also for a worker that could not open its store.

    Args:
        path: of this worker's store, for messages.
        mine: what it has, or why it could not be opened.
        group: of the workers; None, all of them.

    Returns:
        The epoch; 0 for the start, which a store has until its second commit.

    Raises:
        Exception: `mine`, if it is one.
        RuntimeError: another worker could not open its store, or no step is common to all.
    """
    report = f"{type(mine).__name__}: {mine}" if isinstance(mine, Exception) else mine
    reports = gather(report, group)
    if isinstance(mine, Exception):
        raise mine
    failed = [f"worker {k}: {told}" for k, told in enumerate(reports) if isinstance(told, str)]
    if failed:
        raise RuntimeError(f"store {path!r} was closed again: {'; '.join(failed)}")
    commits = [_with_start(each) for each in reports]
    common = set.intersection(*({step for _, step in each} for each in commits))
    if not common:
        raise RuntimeError(
            f"store {path!r}: no commit is common to the stores of all workers: {_words(reports)}. "
            "See whether each has its own store and as many workers run as made the stores; else "
            "remove the stores of all and restore a snapshot, which any number of workers can load"
        )
    newest = next(step for _, step in reversed(commits[0]) if step in common)
    return next(epoch for epoch, step in reversed(_with_start(mine)) if step == newest)


def _with_start(commits: Commits) -> list[tuple[int, int | None]]:
    return [_START, *commits] if not commits or commits[-1][0] == 1 else list(commits)


def _words(workers: list[Commits]) -> str:
    """What which workers have."""
    owners: dict[str, list[str]] = {}
    for k, commits in enumerate(workers):
        words = " and ".join(f"step {step} (epoch {epoch})" for epoch, step in commits)
        owners.setdefault(words or "none", []).append(str(k))
    return "; ".join(f"{words} of worker {', '.join(ks)}" for words, ks in owners.items())
