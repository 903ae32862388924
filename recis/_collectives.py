"""Collectives that fail say what they were for, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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
