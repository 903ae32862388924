"""Groups for what lies in host memory, and what they gather; collectives that fail say why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any

import torch.distributed as dist


@contextmanager
def collective(what: str, kind: type[RuntimeError]) -> Iterator[None]:
    """Has an error of a collective be one of this kind, with a text that says what failed."""
    try:
        yield
    except RuntimeError as error:
        raise kind(
            f"{what}: {error}\nA worker may be lost, or slower than the timeout of its process "
            "group. End all of them, and let them go on from their last common commit or snapshot"
        ) from error


def gloo_beside(group: Any) -> dist.ProcessGroup:
    """Another group of the same workers, of gloo and with the same timeout; a collective."""
    made: dist.ProcessGroup = dist.new_group(
        dist.get_process_group_ranks(group),
        timeout=_timeout_of(group),
        backend="gloo",
        use_local_synchronization=True,
    )
    return made


_host_group = cache(gloo_beside)


def host_group(group: dist.ProcessGroup | None) -> dist.ProcessGroup | None:
    """The workers of a group as one that exchanges tensors on the CPU, which NCCL's do not.

    A collective of the group where it is of NCCL alone: one of gloo is made beside it, once.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_rank(group) < 0:
        return group
    whole = group or dist.group.WORLD
    return group if "cpu:" in dist.get_backend_config(whole) else _host_group(whole)


def _timeout_of(group: Any) -> timedelta | None:
    """What `init_process_group` was given: torch does not hand it on to other groups."""
    with suppress(AttributeError, IndexError, RuntimeError):
        timeout: timedelta = group._get_backend(group._device_types[0]).options._timeout
        return timeout
    return None


def gather(value: Any, group: dist.ProcessGroup | None) -> list[Any]:
    """What all workers of a group give, without one what this process gives."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    found: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(found, value, group=group)
    return found
