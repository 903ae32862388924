"""That all workers of a group take part in the same exchange, or none does."""

from __future__ import annotations

import hashlib
import math
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from recis._collectives import collective
from recis._counters import EXCHANGES


class ExchangeError(RuntimeError):
    """Workers could not exchange rows: one is lost, or has called something else.

    Others may have finished what this one has not: what tables hold in memory is not to be gone on
    with. Stores are as of their last commit, snapshots as they were.
    """


def agree(what: str, details: str, numbers: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Exchanges a number between each two workers, once it is sure that all do the same.

    It is the only collective of a fixed size: workers that do different things meet here, and not
    where gloo takes a message for another that is longer, or ends the process.

    Args:
        what: this worker is about to do, for messages.
        details: of it, which all must have in common.
        numbers: int64 `(workers,)`, one for each worker.
        group: the workers.

    Returns:
        The number that each of them has for this worker, int64 `(workers,)`.

    Raises:
        ExchangeError: a worker is about to do something else, or lost.
    """
    text = f"{what} {details}".encode()
    digest = int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big")
    told = torch.stack([torch.full_like(numbers, digest), numbers], 1)
    found = torch.zeros_like(told)
    carry(what, found, told, group)
    others = (found[:, 0] != digest).nonzero().view(-1).tolist()
    if others:
        raise ExchangeError(
            f"this worker was about to {what}; of {len(numbers)}, {others} were about to do "
            "something else. All must make the same tables with the same options in the same order "
            "and call them in the same order, backward passes included: all in train() or in "
            "eval(), with gradients or under no_grad()"
        )
    return found[:, 1].contiguous()


def exchange(what: str) -> AbstractContextManager[None]:
    """Around a collective: its errors are `ExchangeError`s."""
    return collective(f"cannot {what}", ExchangeError)


def carry(
    what: str,
    found: Tensor,
    given: Tensor,
    group: dist.ProcessGroup | None,
    sizes: tuple[list[int], list[int]] | None = None,
    *,
    wait: bool = True,
) -> Any:
    """Has workers exchange rows, and counts what they carry to one another.

    Args:
        what: it is for, for messages.
        found: where the rows go that arrive, in the order of the workers.
        given: those that leave, in the order of the workers.
        group: the workers.
        sizes: how many rows arrive from each worker and leave for each; None, as many for all.
        wait: until they have arrived.

    Returns:
        What to wait for, if not.

    Raises:
        ExchangeError: a worker is lost.
    """
    arriving, leaving = sizes or (None, None)
    with exchange(what):
        work = dist.all_to_all_single(
            found, given, arriving, leaving, group=group, async_op=not wait
        )
    row_bytes = given.element_size() * math.prod(given.shape[1:])
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    own = len(given) // world if leaving is None else leaving[rank]
    EXCHANGES.add(
        collectives=1,
        sent_bytes=(len(given) - own) * row_bytes,
        received_bytes=(len(found) - own) * row_bytes,
    )
    return work
