"""Names of snapshots and of the files in them."""

from __future__ import annotations

import re

_PATH = re.compile(r"[A-Za-z0-9_.\-/]{1,1024}")
_STEP = re.compile(r"step-(\d{12})", re.ASCII)

DRAFT_PREFIX = ".tmp-"
FORMAT = "FORMAT"
LATEST = "latest"
MANIFEST = "MANIFEST.json"
MANIFEST_CHECKSUM = "MANIFEST.json.xxh3"


def step_name(step: int) -> str:
    """The directory of a step's snapshot.

    Raises:
        ValueError: the step is negative or has more than 12 digits.
    """
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 10**12:
        raise ValueError(f"a step must be an int in [0, 10**12), found {step!r}")
    return f"step-{step:012d}"


def parse_step(name: str) -> int | None:
    """The step whose snapshot has this directory name; None if it is none of a snapshot."""
    match = _STEP.fullmatch(name)
    return None if match is None else int(match[1])


def check_path(path: str) -> str:
    """A path of a file inside a snapshot, as it is.

    Raises:
        ValueError: it could lead out of the snapshot, or name one file in two ways.
    """
    parts = path.split("/") if isinstance(path, str) and _PATH.fullmatch(path) else [""]
    if any(part in ("", ".", "..") or len(part) > 255 for part in parts):
        raise ValueError(
            "expected a relative path of A-Z a-z 0-9 _ . - / without empty parts, '.' and '..', "
            f"found {path!r}"
        )
    return path


def check_table(name: str) -> str:
    """The name of a table that can be in a snapshot, as it is.

    Raises:
        ValueError: it is not such a name.
    """
    try:
        check_path(name)
    except ValueError as error:
        raise ValueError(f"a table's name becomes a path: {error}") from None
    if len(name) > 255:
        raise ValueError(f"a table's name has at most 255 letters, found {len(name)}")
    return name


def rows_path(table: str, shard: int, shards: int, part: int) -> str:
    """Where a part of a shard of a table is."""
    return f"sparse/{table}/{shard:05d}-of-{shards:05d}.{part:03d}.safetensors"


def deleted_path(table: str, shard: int, shards: int) -> str:
    """Where a delta has the ids that a shard of a table lost."""
    return f"sparse/{table}/{shard:05d}-of-{shards:05d}.deleted.safetensors"


def policies_path(table: str, shard: int, shards: int) -> str:
    """Where the state of the hooks of a shard of a table is."""
    return f"policies/{table}/{shard:05d}-of-{shards:05d}.state"


def shard_name(name: str, shard: int, shards: int) -> str:
    """The name of a dense value that each shard has of its own."""
    return f"{name}.{shard:05d}-of-{shards:05d}"
