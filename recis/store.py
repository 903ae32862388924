"""`Store`: tables larger than memory, made durable by commits."""

from __future__ import annotations

import logging
import os
import re
import struct
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist

from recis import _engine
from recis._common_epoch import Commits, common_epoch
from recis._policy_state import PolicyStates
from recis._slices import Slice
from recis._state import decode, encode
from recis._tensors import DTYPES

logger = logging.getLogger(__name__)

# What the engine keeps for us: magic, version, bytes of the user's part; that part; our own.
_HEADER = struct.Struct("<4sIQ")
_MAGIC, _VERSION = b"RCST", 2  # of 1, our own part is what hooks have learnt and nothing else

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]i?)?B", re.IGNORECASE)
_POWERS = {None: 0, "k": 1, "m": 2, "g": 3, "t": 4}


class SlotSchema(NamedTuple):
    """A slot of a table."""

    name: str
    """Unique in its table."""
    dtype: torch.dtype
    """Of its elements."""
    shape: tuple[int, ...]
    """Of one row."""
    initial: float
    """What every element of a row is that has not been written."""


class TableSize(NamedTuple):
    """What a commit has of a table."""

    rows: int
    """How many."""
    live_bytes: int
    """Of them on disk, all slots."""


class Epoch(NamedTuple):
    """A commit that can be opened."""

    epoch: int
    """Its number, from 1."""
    step: int
    """The training step it was made at."""
    time: int
    """When, in seconds since 1970."""


class Store:
    """A directory that holds tables, of which only the rows in use need to be in memory.

    Tables of one store, `HashTable(..., store=store)`, share its memory and are committed
    together. A commit survives `kill -9` and power loss; what came after the last one is dropped
    when the store is opened again. Then each table, constructed as before, finds its rows.

    A process that was forked cannot use a store of its parent, and only one process at a time
    can have it open, readers aside. Workers of a group each have their own: `open_common`.

    Args:
        path: a directory, made if it is not there.
        hot_bytes: how much memory hot rows may take, all tables together: an int, or a text such
            as "2GiB", "512 MiB" or "1.5GB". Default: as much as it takes.
        durability: "commit"; or "scratch" for a store that only makes room: it is wiped whenever
            it is opened, and cannot be committed.
        read_only: open it for tables in `eval()`, as of one epoch, also beside a process that
            trains.
        epoch: which one of `epochs()` to go on from; the later one is dropped, unless read-only.
            Default, the last. Until the second commit, 0 is the empty store before the first.
        network: open it even on a network file system, whose locks and syncs may be unreliable.

    Raises:
        TypeError, ValueError: an argument is unusable.
        RuntimeError: another process has it open (the message says which), it is damaged, or of
            a later version.
        OSError: the directory cannot be used.

    Example:
        >>> from recis.nn import HashTable
        >>> from tempfile import TemporaryDirectory
        >>> folder = TemporaryDirectory()
        >>> path = f"{folder.name}/store"
        >>> with Store(path, hot_bytes="64 MiB") as store:
        ...     users = HashTable([8], name="store_example", store=store)
        ...     users.insert(torch.tensor([1, 2, 3]), torch.ones(3, 8))
        ...     store.commit(step=1, state={"lr": 0.01})
        1
        >>> del users
        >>> with Store(path) as store:
        ...     users = HashTable([8], name="store_example", store=store)
        ...     users.ids().numel(), store.step, store.state()
        (3, 1, {'lr': 0.01})
        >>> folder.cleanup()
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        hot_bytes: int | str | None = None,
        durability: Literal["commit", "scratch"] = "commit",
        read_only: bool = False,
        epoch: int | None = None,
        network: bool = False,
    ) -> None:
        self._path = os.fspath(path)
        if durability not in ("commit", "scratch"):
            raise ValueError(
                f"store {self._path!r}: durability must be 'commit' or 'scratch', "
                f"found {durability!r}"
            )
        self._scratch = durability == "scratch"
        budget = None if hot_bytes is None else _bytes(self._path, hot_bytes)
        self._engine = _engine.Store(self._path, budget, self._scratch, read_only, network, epoch)
        self._pid = os.getpid()
        # Tables keep their store alive, so by then nobody needs it any more.
        self._finalizer = weakref.finalize(self, _close, self._engine, self._pid)
        if self._scratch:
            logger.warning(
                "store %r is scratch: it was wiped just now, and will be whenever it is opened",
                self._path,
            )
        opened = [found for found in self.epochs() if epoch in (None, found.epoch)]
        self._current = opened[-1] if opened else None
        try:
            saved = self._saved()
            self._policies = PolicyStates(saved["hooks"])
            self._slices = {table: Slice(*held) for table, held in saved["slices"].items()}
        except BaseException:
            self.close()
            raise

    @classmethod
    def open_common(
        cls,
        path: str | os.PathLike[str],
        group: dist.ProcessGroup | None = None,
        *,
        hot_bytes: int | str | None = None,
        network: bool = False,
    ) -> Store:
        """Opens a worker's store at the newest step that the stores of all workers have.

        A worker may have ended between its commit and another's, so the last epochs may differ by
        one. A later epoch than the common one is dropped, with a warning. If the first commit is
        what some lack, all begin with an empty store.

        A collective of the workers, who afterwards commit the same steps. Without a process group
        it opens the last epoch.

        Args:
            path: of this worker's store, which no other worker has.
            group: the process group; None, all workers.
            hot_bytes: as of a `Store`.
            network: as of a `Store`.

        Raises:
            TypeError, ValueError, RuntimeError, OSError: this worker's store cannot be opened.
            RuntimeError: another worker's cannot be, or no step is common to all; the message has
                those of each worker. Nothing has changed.
        """
        store = None
        mine: Commits | Exception
        try:
            store = cls(path, hot_bytes=hot_bytes, network=network)
            mine = [(found.epoch, found.step) for found in store.epochs()]
        except Exception as error:  # the others must hear of it
            mine = error
        try:
            epoch = common_epoch(os.fspath(path), mine, group)
        except BaseException:
            if store is not None:
                store.close()
            raise
        assert store is not None
        if epoch == (store.epoch or 0):
            return store
        logger.warning(
            "store %r: step %s, epoch %s, is dropped, as not all workers have committed it",
            store._path, store.step, store.epoch,
        )  # fmt: skip
        store.close()
        return cls(path, hot_bytes=hot_bytes, network=network, epoch=epoch)

    @property
    def path(self) -> str:
        """Where it is."""
        return self._path

    # ---- commit ----

    def commit(self, step: int, state: Any = None) -> int:
        """Makes everything up to here durable, and only then returns.

        Threads may train meanwhile; they wait only while changed rows are copied. What hooks
        have learnt is taken a moment before the rows are.

        Args:
            step: of the training, an int.
            state: what else it takes to go on from here, such as the dense model, optimizers'
                `state_dict()`, random generators and the place in the data: nested dicts (keys:
                str or int), lists and tuples of tensors, numbers, bools, strings and None.

        Returns:
            The number of the new epoch. It and the one before can be opened.

        Raises:
            TypeError: the step is no int, or the state holds something else; the message says
                where.
            OSError: it cannot be written, as the disk is full, say. The last epoch is intact,
                and another commit may be tried.
            RuntimeError: the store cannot be committed: closed, read-only, scratch or forked.
        """
        engine = self._opened()
        if not isinstance(step, int) or not -(2**63) <= step < 2**63:
            raise TypeError(f"store {self._path!r}: step must be an int of 64 bits, found {step!r}")
        if self._scratch:
            raise RuntimeError(
                f"store {self._path!r} is scratch and cannot be committed: open one with "
                "durability='commit'"
            )
        user = encode(state, "state")
        slices = {
            table: (held.slice_begin, held.slice_end, held.slice_size)
            for table, held in list(self._slices.items())
        }
        own = encode({"hooks": self._policies.collect(), "slices": slices}, "own")
        epoch = engine.commit(step, _HEADER.pack(_MAGIC, _VERSION, len(user)) + user + own)
        self._current = next(found for found in self.epochs() if found.epoch == epoch)
        return epoch

    @property
    def epoch(self) -> int | None:
        """The epoch that was opened or committed last; None before the first."""
        return None if self._current is None else self._current.epoch

    @property
    def step(self) -> int | None:
        """Its step."""
        return None if self._current is None else self._current.step

    def state(self) -> Any:
        """The state that was committed with it, tensors on the CPU; None before the first.

        Raises:
            RuntimeError: the store is closed, damaged or forked.
        """
        parts = self._parts()
        return None if parts is None else decode(parts[1], "state")

    def epochs(self) -> list[Epoch]:
        """The last two commits, the older first: what `Store(path, epoch=...)` can open."""
        return [Epoch(*found) for found in self._opened().epochs()]

    # ---- what there is ----

    def tables(self) -> list[str]:
        """Names of the tables in the store, constructed or not."""
        return self._opened().tables()

    def schema(self, table: str) -> list[SlotSchema]:
        """The slots of a table, the embedding first, whether it is constructed or not.

        Raises:
            ValueError: the store has no such table.
            RuntimeError: the store is closed, damaged or forked.
        """
        return [
            SlotSchema(slot.name, DTYPES[slot.dtype], tuple(slot.shape), slot.initial)
            for slot in self._opened().schema(table)
        ]

    def sizes(self) -> dict[str, TableSize]:
        """Of each table, what the last commit has, or the opened epoch; no row is read.

        Nothing of what came since: 0 rows of a new table. Constructed or not makes no difference.

        Raises:
            RuntimeError: the store is closed, damaged or forked.
        """
        return {table: TableSize(*size) for table, size in self._opened().sizes().items()}

    def verify(self, progress: Callable[[int, int], object] | None = None) -> list[str]:
        """Reads every block of the opened epoch and holds it against its checksums.

        Args:
            progress: told how many blocks of how many have been read, every now and then.

        Returns:
            What is wrong, a text for each damaged block that names file, table and block.

        Raises:
            RuntimeError: the store is closed, forked, or its catalog of blocks is damaged.
        """
        return self._opened().verify(progress or (lambda done, total: None))

    def stats(self) -> dict[str, int | float]:
        """Counters of all tables together.

        `hot_bytes` are memory. On disk: `live_bytes` of rows in use, in blocks of `block_bytes`;
        `dead_bytes` of blocks kept for the epoch before; `file_bytes` and, of it, `free_bytes` for
        reuse. Since the store was opened: `bytes_written` to blocks, of which `cleaned_bytes` to
        move rows out of mostly dead ones; `bytes_read` in `reads`; `transactions`; `commits`.
        `queued_bytes` wait to be written. `commit_seconds` are those of the last commit, and
        `commit_stall_seconds` how long tables waited for it.
        """
        return self._opened().stats()

    # ---- closing ----

    def close(self) -> None:
        """Lets go of the file and the memory; tables are of no use afterwards.

        What was not committed is lost. Closing twice is fine.
        """
        self._finalizer()

    def __enter__(self) -> Store:
        """The store itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes it; nothing is committed."""
        self.close()

    def __repr__(self) -> str:
        closed = "" if self._finalizer.alive else ", closed"
        return f"Store({self._path!r}, epoch={self.epoch}, step={self.step}{closed})"

    # ---- for tables and hooks ----

    @property
    def engine(self) -> _engine.Store:
        """What tables are made in."""
        return self._opened()

    @property
    def policies(self) -> PolicyStates:
        """What hooks have learnt."""
        return self._policies

    @property
    def slices(self) -> dict[str, Slice]:
        """By table, those whose ids it holds; tables of early stores are missing."""
        return self._slices

    def _opened(self) -> _engine.Store:
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"store {self._path!r} was opened by process {self._pid} before it was forked, and "
                f"cannot be used in its child {os.getpid()}: use it in the parent, or start this "
                "process with the spawn method and let it have a store of its own"
            )
        if not self._finalizer.alive:
            raise RuntimeError(f"store {self._path!r} is closed: open it again")
        return self._engine

    def _parts(self) -> tuple[int, bytes, bytes] | None:
        """The version of what was committed, the user's part of it and our own."""
        engine = self._opened()
        if self._current is None:
            return None
        data = engine.state()
        magic, version, size = _HEADER.unpack_from(data)
        if magic != _MAGIC or not 1 <= version <= _VERSION:
            raise RuntimeError(
                f"store {self._path!r}, epoch {self.epoch}: expected a state of version "
                f"{_VERSION} at most, found {magic!r} of version {version}: a later recis wrote it"
            )
        return version, data[_HEADER.size : _HEADER.size + size], data[_HEADER.size + size :]

    def _saved(self) -> dict[str, dict[str, Any]]:
        """Our own part: by table, what hooks have learnt, and slices."""
        parts = self._parts()
        if parts is None:
            return {"hooks": {}, "slices": {}}
        version, _, own = parts
        if version == 1:
            return {"hooks": decode(own, "hooks"), "slices": {}}
        saved: dict[str, dict[str, Any]] = decode(own, "own")
        return saved


def _close(engine: _engine.Store, pid: int) -> None:
    if os.getpid() == pid:
        engine.close()


def _bytes(path: str, size: int | str) -> int:
    """A size in bytes, given so or as a text."""
    count = size
    if isinstance(size, str) and (match := _SIZE.fullmatch(size.strip())):
        number, unit = match.groups()
        base = 1024 if unit and unit.lower().endswith("i") else 1000
        count = int(float(number) * base ** _POWERS[unit and unit[0].lower()])
    if not isinstance(count, int) or isinstance(count, bool) or not 0 < count < 2**63:
        raise ValueError(
            f"store {path!r}: hot_bytes must be a positive number of bytes or a text such as "
            f"'2GiB', '512 MiB' or '1.5GB', found {size!r}"
        )
    return count
