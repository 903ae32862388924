"""That all workers of a group take part in the same exchange, or none does."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import Tensor

from recis._collectives import collective


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
    with exchange(what):
        dist.all_to_all_single(found, told, group=group)
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
