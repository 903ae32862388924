"""`Saver`: everything that training needs to go on, in one snapshot."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from recis.framework.random_state import random_states, set_random_states
from recis.nn.modules.hashtable import split_sparse_dense_state_dict
from recis.optim.sparse_optim import SparseOptimizer
from recis.serialize import Loader
from recis.serialize import Saver as SnapshotSaver
from recis.serialize.saver import SaveHandle
from recis.serialize.shards import Shards
from recis.snapshot.errors import MismatchError
from recis.snapshot.files import is_remote
from recis.snapshot.gc import collect_garbage
from recis.snapshot.names import shard_name, step_name
from recis.snapshot.publish import steps
from recis.snapshot.read import SnapshotReader, open_snapshot

logger = logging.getLogger(__name__)

_TRAINING = "training"  # the dense state that is no model, the same for all workers
_WORKER = "worker"  # what each worker has of its own


class Checkpointable(Protocol):
    """What can be registered: an optimizer, a scheduler, a loader's position."""

    def state_dict(self) -> dict[str, Any]:
        """Nested dicts, lists, tensors and plain values."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Goes on from what `state_dict` gave."""


class Saver:
    """Saves and restores a model with its tables, optimizers, random generators and more.

    A snapshot is published whole or not at all, and training that is restored from it goes on bit
    for bit as it would have, if there is no pending gradient when it is saved: save after a step
    of the optimizers. Nothing is pickled.

    Of several workers, as RANK and WORLD_SIZE count them, each saves the slices of a table that
    are its share, and its random generators; rank 0 saves the dense model and what is registered.
    They make and use their Savers together, in a process group.

    Args:
        model: with its tables among its modules.
        sparse_optim: the optimizer of the tables.
        output_dir: the directory of snapshots, or an fsspec URL.
        max_keep: how many are kept. The newest one that is whole is never removed, nor is one
            that a kept delta needs. At a URL all are kept.
        concurrency: parts that are written at once.
        async_save: whether `save` returns once the moment is held, while the files are being
            written. An error is raised by the next call: `wait` when training is over.
        deltas: how many snapshots between two full ones hold only what changed.

    Example:
        >>> from recis.nn import HashTable
        >>> from tempfile import TemporaryDirectory
        >>> folder = TemporaryDirectory()
        >>> model = torch.nn.Sequential(HashTable([4], name="framework_example"))
        >>> _ = model(torch.tensor([1, 2]))
        >>> saver = Saver(model, output_dir=folder.name)
        >>> saver.save(100)
        >>> saver.restore()
        100
        >>> folder.cleanup()
    """

    def __init__(
        self,
        model: torch.nn.Module,
        sparse_optim: SparseOptimizer | None = None,
        output_dir: str = "./",
        max_keep: int = 1,
        concurrency: int = 4,
        *,
        async_save: bool = False,
        deltas: int = 0,
    ) -> None:
        for name, value, least in [
            ("max_keep", max_keep, 1), ("concurrency", concurrency, 1), ("deltas", deltas, 0),
        ]:  # fmt: skip
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be an int of at least {least}, found {value!r}")
        self._model = model
        self._sparse_optim = sparse_optim
        self._output_dir = os.fspath(output_dir)
        self._max_keep = max_keep
        self._concurrency = concurrency
        self._async = async_save
        self._deltas = deltas
        self._deltas_left = 0  # until the next full one
        self._last: int | None = None  # what a delta would follow
        self._rank = int(os.environ.get("RANK", 0))
        self._workers = int(os.environ.get("WORLD_SIZE", 1))
        self._objects: dict[str, Checkpointable] = {}
        self._own: dict[str, Checkpointable] = {}  # those that each worker saves
        self._damaged: set[int] = set()  # steps that `restore` had to pass over
        self._handle: SaveHandle | None = None

    @property
    def output_dir(self) -> str:
        """The directory of snapshots."""
        return self._output_dir

    def register_for_checkpointing(
        self, name: str, obj: Checkpointable, *, per_worker: bool = False
    ) -> None:
        """Saves and restores one more object under a name.

        Args:
            name: of its state.
            obj: an optimizer, a learning rate schedule, the place in the data.
            per_worker: whether each worker saves its own state, as one that reads its own part of
                the data must. Otherwise rank 0 saves its state, and all restore that.

        Raises:
            ValueError: the name is taken.
            TypeError: the object has no `state_dict` and `load_state_dict`.
        """
        if name in self._objects or name in self._own:
            raise ValueError(f"{name!r} is registered already")
        if not callable(getattr(obj, "state_dict", None)) or not callable(
            getattr(obj, "load_state_dict", None)
        ):
            raise TypeError(
                f"{name!r}: a {type(obj).__name__} has no state_dict() and load_state_dict()"
            )
        (self._own if per_worker else self._objects)[name] = obj

    def save(self, step: int) -> None:
        """Publishes a snapshot of this step; for `async_save`, soon.

        Raises:
            FileExistsError: there is one of this step; one that `restore` found damaged is
                renamed instead.
            OSError: it cannot be written. Earlier snapshots are intact.
            RuntimeError: there are several workers and no process group.
        """
        self.wait()
        if self._workers > 1 and not Shards(self._rank, self._workers).grouped:
            raise RuntimeError(
                f"WORLD_SIZE says there are {self._workers} workers, but there is no process group "
                "of so many: call torch.distributed.init_process_group first"
            )
        self._put_aside(step)
        sparse, dense, rest = self._state_dicts()
        training = {"step": step, "model": rest, "objects": _states(self._objects)}
        own = {"random": random_states(), "objects": _states(self._own)}
        if self._sparse_optim is not None:
            training["sparse_optim"] = self._sparse_optim.state_dict()
        delta = self._last is not None and self._deltas_left > 0
        saver = SnapshotSaver(
            shard_index=self._rank,
            shard_num=self._workers,
            parallel=self._concurrency,
            path=self._output_dir,
            hashtables=sparse,
            tensors=dense,
            states={_TRAINING: training},
            shard_states={_WORKER: own},
            parent=f"{self._output_dir}/{step_name(self._last or 0)}" if delta else None,
            track=self._deltas > 0,
        )
        try:
            self._handle = saver.save_async(step)
            if not self._async:
                self.wait()
        except BaseException:
            self._last = None  # what changed since it may be lost: a full one is next
            raise
        self._last = step
        self._deltas_left = self._deltas_left - 1 if delta else self._deltas

    def wait(self) -> None:
        """Returns when no snapshot is being written.

        Raises:
            OSError, RuntimeError: the one that was could not be; earlier ones are intact.
        """
        handle, self._handle = self._handle, None
        if handle is None:
            return
        try:
            handle.wait()
        except BaseException:
            self._last = None
            raise
        if self._rank == 0 and not is_remote(self._output_dir):
            try:
                collect_garbage(self._output_dir, self._max_keep, level="quick")
            except OSError as error:  # no reason to stop training: the snapshot is there
                logger.warning("%s: old snapshots stay: %s", self._output_dir, error)

    def restore(self, step: int | None = None, *, strict: bool = False) -> int | None:
        """Goes on from a snapshot: model, tables, optimizers, generators and registered objects.

        The tables lose what they have. Later snapshots stay the newest, and training that comes to
        one of their steps again cannot save: delete them, unless it was their damage that led here.

        Args:
            step: which one; default, the newest.
            strict: whether to refuse when the newest is damaged. Otherwise the newest that is
                not is restored, with a warning.

        Returns:
            Its step; None, and nothing has changed, if there is no snapshot at all.

        Raises:
            FileNotFoundError: there is none of this step.
            RuntimeError: it is damaged, or not of this model; the message says what is.
        """
        self.wait()
        there = step is not None or steps(self._output_dir)
        reader = open_snapshot(self._output_dir, step, strict) if there else None
        found = None if reader is None else reader.manifest.step
        Shards(self._rank, self._workers).check_same(f"{self._output_dir}: step to restore", found)
        if reader is None or found is None:
            return None
        later = [other for other in steps(self._output_dir) if other > found]
        if step is None:
            self._damaged = set(later)
        elif later:
            logger.warning(
                "%s: snapshots of later steps than %d stay, and count as newer than what is saved "
                "from now on; delete those that are not wanted: %s",
                self._output_dir, step, ", ".join(map(step_name, later)),
            )  # fmt: skip
        training, own = self._saved(reader)
        sparse, dense, _ = self._state_dicts()
        Loader(
            reader.files.url,
            hashtables=sparse,
            tensors=dense,
            parallel=self._concurrency,
            clear=True,
            track=self._deltas > 0,
        ).load()
        if training["model"]:
            self._model.load_state_dict(training["model"], strict=False)
        if self._sparse_optim is not None:
            self._sparse_optim.load_state_dict(training["sparse_optim"])
        for name, obj in self._objects.items():
            obj.load_state_dict(training["objects"][name])
        for name, obj in self._own.items():
            obj.load_state_dict(own["objects"][name])
        if own:
            set_random_states(own["random"])
        self._last = found if self._deltas else None
        self._deltas_left = max(0, self._deltas - len(reader.chain) + 1)
        return found

    def _state_dicts(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Of the model: tables, tensors, and what else its modules save."""
        sparse, dense = split_sparse_dense_state_dict(self._model.state_dict())
        tensors = {name: value for name, value in dense.items() if isinstance(value, torch.Tensor)}
        return sparse, tensors, {name: dense[name] for name in dense if name not in tensors}

    def _saved(self, reader: SnapshotReader) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a snapshot has of training, and of this worker; nothing of another number of them.

        Raises:
            MismatchError: it lacks the state of something that is to be restored.
        """
        url = reader.files.url
        training = reader.dense(_TRAINING)
        own: dict[str, Any] = {}
        name = shard_name(_WORKER, self._rank, self._workers)
        if name in reader.dense_names():
            own = reader.dense(name)
        else:
            logger.warning(
                "%s has nothing of a worker %d of %d: random generators go on as they are",
                url, self._rank, self._workers,
            )  # fmt: skip
        missing = [f"{name!r}" for name in self._objects if name not in training["objects"]]
        missing += [f"{name!r}" for name in self._own if name not in own.get("objects", {})]
        if self._sparse_optim is not None and "sparse_optim" not in training:
            missing.append("sparse_optim")
        if missing:
            raise MismatchError(
                f"{url} has no state of {', '.join(missing)} for worker {self._rank} of "
                f"{self._workers}: register after the restore what it cannot have, or restore a "
                "snapshot that has it"
            )
        known = {*self._objects, *self._own}
        unused = sorted({*training["objects"], *own.get("objects", {})} - known)
        if unused:
            logger.warning("%s: not restored, as nobody registered it: %s", url, ", ".join(unused))
        return training, own

    def _put_aside(self, step: int) -> None:
        """Renames a damaged snapshot of a step that is to be saved again; nothing is lost."""
        name = step_name(step)
        if step in self._damaged and self._rank == 0 and not is_remote(self._output_dir):
            aside = f"damaged-{name}-{secrets.token_hex(4)}"
            logger.warning("%s: the damaged %s is now %s", self._output_dir, name, aside)
            os.rename(os.path.join(self._output_dir, name), os.path.join(self._output_dir, aside))
        self._damaged.discard(step)


def _states(objects: Mapping[str, Checkpointable]) -> dict[str, Any]:
    return {name: obj.state_dict() for name, obj in objects.items()}
