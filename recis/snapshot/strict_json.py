"""JSON from files that nobody vouches for."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from recis.snapshot.errors import DamagedError

_DIGITS = 20  # of a number; those of a longer one would take time to read


def load(data: bytes | bytearray, path: str, max_values: int) -> dict[str, Any]:
    """The object that an ASCII JSON text holds.

    Args:
        data: the text.
        path: of the file, for errors.
        max_values: how many values it may have at most, since each takes far more memory than
            its text may.

    Raises:
        DamagedError: it is not such a text, or holds a key twice.
    """
    # Every value but the first follows one of these.
    values = sum(data.count(mark) for mark in (b",", b":", b"[", b"{"))
    if values > max_values:
        raise DamagedError(path, f"JSON of at most {max_values} values", f"up to {values}")
    try:
        found = json.loads(
            data.decode("ascii"),
            object_pairs_hook=_object,
            parse_int=_int,
            parse_constant=_constant,
        )
    except (ValueError, RecursionError) as error:
        raise DamagedError(path, "a JSON object in ASCII", f"{error}"[:200]) from None
    if not isinstance(found, dict):
        raise DamagedError(path, "a JSON object", f"a {type(found).__name__}")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key that occurs twice")
    return found


def _int(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _constant(text: str) -> NoReturn:
    raise ValueError(text)
