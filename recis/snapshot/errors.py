"""What can be wrong with a snapshot."""

from __future__ import annotations


class SnapshotError(RuntimeError):
    """A snapshot cannot be used; the message says which, why and what to do."""


class DamagedError(SnapshotError):
    """A file of a snapshot does not hold what it should.

    Args:
        path: the file.
        expected: what it should hold.
        found: what it holds.
        tensor: the tensor concerned, None for the file as a whole.
        slices: the slices `(begin, end)` concerned, None for all of them.
    """

    def __init__(
        self,
        path: str,
        expected: str,
        found: str,
        *,
        tensor: str | None = None,
        slices: tuple[int, int] | None = None,
    ) -> None:
        self.path = path
        self.expected = expected
        self.found = found
        self.tensor = tensor
        self.slices = slices
        super().__init__(path, expected, found)

    def __str__(self) -> str:
        where = self.path
        if self.tensor is not None:
            where += f", tensor {self.tensor!r}"
        if self.slices is not None:
            where += f", slices [{self.slices[0]}, {self.slices[1]})"
        return (
            f"{where}: expected {self.expected}, found {self.found}. The snapshot is damaged: "
            "bring the file back from a copy, or use an older snapshot; "
            "`recis-ckpt verify` lists all damage"
        )


class MismatchError(SnapshotError, ValueError):
    """A snapshot is whole, but not of what it is to be loaded into or added to."""
