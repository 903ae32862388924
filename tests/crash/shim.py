"""shim.c as Python meets it: compiled and preloaded by tests, armed by the process under test."""

import ctypes
import errno
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("shim.c")

NOTHING, KILL, HALFWAY, SHORT = 0, -1, -2, -3
FAULTS = {
    "kill": KILL,
    "halfway": HALFWAY,
    "short": SHORT,
    "full": errno.ENOSPC,
    "broken": errno.EIO,
}
"""What can go wrong, as `arm` takes it."""


class Call(NamedTuple):
    """What a call did."""

    kind: str
    changed: bool
    """False if it failed, or changed nothing."""
    path: str
    offset: int
    """Of a write; of a truncation, the size; of a note, the note."""
    more: bytes
    """What was written, or the new name."""

    def place(self) -> tuple[str, str]:
        """The same for calls that do the same with files that serve the same."""
        return self.kind, re.sub("[0-9a-f]{3,}", "*", os.path.basename(self.path))

    def can_go_wrong(self, fault: int) -> bool:
        """Whether the shim counts it, as `goes_wrong` in shim.c does."""
        if self.kind == "n":
            return False
        if fault in (HALFWAY, SHORT):
            return self.kind == "w"
        return fault != errno.ENOSPC or self.kind not in "udr"


def build(folder: Path) -> Path | None:
    """Compiles it; None where there is no C compiler."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = folder / "shim.so"
    options = "-std=gnu11 -O1 -Wall -Wextra -Werror -shared -fPIC".split()
    subprocess.run(
        [*compiler.split(), *options, "-o", library, SOURCE, "-ldl", "-pthread"], check=True
    )
    return library


def arm(root: Path, at: int = 0, fault: int = NOTHING, log: int = -1) -> None:
    """Has the `at`th call below `root` go wrong, and writes all to a file that is open."""
    _preloaded().shim_arm(os.fsencode(root), at, fault, log)


def disarm() -> None:
    """Lets all calls be from now on."""
    _preloaded().shim_disarm()


def calls() -> int:
    """How many could have gone wrong since."""
    return int(_preloaded().shim_calls())


def note(value: int) -> None:
    """Puts a mark among the calls."""
    _preloaded().shim_note(value)


def read_log(data: bytes) -> list[Call]:
    """The calls of a log."""
    found, at = [], 0
    while at < len(data):
        kind, changed, offset, path_bytes, more_bytes = struct.unpack_from("<5q", data, at)
        at += 40
        path = os.fsdecode(data[at : at + path_bytes])
        at += path_bytes
        found.append(Call(chr(kind), changed != 0, path, offset, data[at : at + more_bytes]))
        at += more_bytes
    return found


def _preloaded() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.shim_calls.restype = ctypes.c_long
    return library
