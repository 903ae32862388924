"""JSON from files that nobody vouches for."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from recis.snapshot.errors import DamagedError

MAX_BYTES = 8 << 20
"""Of a text. It is in memory twice while it is read."""
MAX_VALUES = 1 << 18
"""Of a text, keys included. Each takes up to 130 bytes, however short it is written."""
MAX_DEPTH = 32
"""Of objects and lists in one another."""

_DIGITS = 20  # of a number; those of a longer one would take time to read


def load(data: bytes | bytearray, path: str) -> dict[str, Any]:
    """The object that an ASCII JSON text holds, in less than 64 MiB of memory.

    Args:
        data: the text.
        path: of the file, for errors.

    Raises:
        DamagedError: it is not such a text, is too large, or holds a key twice.
    """
    check_size(data, path)
    try:
        found = json.loads(
            data.decode("ascii"),
            object_pairs_hook=_object,
            parse_int=_int,
            parse_float=_float,
            parse_constant=_constant,
        )
    except (ValueError, RecursionError) as error:
        raise DamagedError(path, "a JSON object in ASCII", f"{error}"[:200]) from None
    if not isinstance(found, dict):
        raise DamagedError(path, "a JSON object", f"a {type(found).__name__}")
    _check_depth(found, path)
    return found


def check_size(data: bytes | bytearray, path: str) -> None:
    """Raises DamagedError if reading a JSON text could take more memory than there may be."""
    if len(data) > MAX_BYTES:
        raise DamagedError(path, f"JSON of at most {MAX_BYTES} bytes", f"{len(data)}")
    # Every value but the first follows one of these.
    values = sum(data.count(mark) for mark in (b",", b":", b"[", b"{"))
    if values > MAX_VALUES:
        raise DamagedError(path, f"JSON of at most {MAX_VALUES} values", f"up to {values}")


def _check_depth(found: dict[str, Any], path: str) -> None:
    """What is nested more deeply could be read, but not be written again."""
    level: list[Any] = [found]
    for _ in range(MAX_DEPTH):
        inner = [value.values() if isinstance(value, dict) else value for value in level]
        level = [item for values in inner for item in values if isinstance(item, dict | list)]
        if not level:
            return
    raise DamagedError(path, f"JSON nested at most {MAX_DEPTH} deep", "more")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key that occurs twice")
    return found


def _int(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _float(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(f"a number that is too large: {text[:_DIGITS]}")
    return found


def _constant(text: str) -> NoReturn:
    raise ValueError(text)
