"""`Saver`: everything that training needs to go on, in one snapshot."""

from __future__ import annotations

import logging
import os
from typing import Any, Protocol

import torch

from recis.framework.random_state import random_states, set_random_states
from recis.nn.modules.hashtable import split_sparse_dense_state_dict
from recis.optim.sparse_optim import SparseOptimizer
from recis.serialize import Loader
from recis.serialize import Saver as SnapshotSaver
from recis.serialize.saver import SaveHandle
from recis.snapshot.errors import MismatchError
from recis.snapshot.gc import collect_garbage
from recis.snapshot.names import step_name
from recis.snapshot.publish import steps
from recis.snapshot.read import open_snapshot

logger = logging.getLogger(__name__)

_TRAINING = "training"  # the dense state that is no model


class Checkpointable(Protocol):
    """What can be registered: an optimizer, a scheduler, a loader's position."""

    def state_dict(self) -> dict[str, Any]:
        """Nested dicts, lists, tensors and plain values."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Goes on from what `state_dict` gave."""


class Saver:
    """Saves and restores a model with its tables, optimizers, random generators and more.

    A snapshot is published whole or not at all, and training that is restored from it goes on bit
    for bit as it would have. Nothing is pickled.

    Args:
        model: with its tables among its modules.
        sparse_optim: the optimizer of the tables.
        output_dir: the directory of snapshots.
        max_keep: how many are kept. The newest one that is whole is never removed, nor is one
            that a kept delta needs.
        concurrency: parts that are written at once.
        async_save: whether `save` returns once the moment is held, while the files are being
            written. An error is raised by the next call.
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
        self._objects: dict[str, Checkpointable] = {}
        self._handle: SaveHandle | None = None

    @property
    def output_dir(self) -> str:
        """The directory of snapshots."""
        return self._output_dir

    def register_for_checkpointing(self, name: str, obj: Checkpointable) -> None:
        """Saves and restores one more object under a name.

        Raises:
            ValueError: the name is taken.
            TypeError: the object has no `state_dict` and `load_state_dict`.
        """
        if name in self._objects:
            raise ValueError(f"{name!r} is registered already")
        if not callable(getattr(obj, "state_dict", None)) or not callable(
            getattr(obj, "load_state_dict", None)
        ):
            raise TypeError(
                f"{name!r}: a {type(obj).__name__} has no state_dict() and load_state_dict()"
            )
        self._objects[name] = obj

    def save(self, step: int) -> None:
        """Publishes a snapshot of this step; for `async_save`, soon.

        Raises:
            FileExistsError: there is one of this step.
            OSError: it cannot be written. Earlier snapshots are intact.
        """
        self.wait()
        sparse, dense = split_sparse_dense_state_dict(self._model.state_dict())
        objects = {name: obj.state_dict() for name, obj in self._objects.items()}
        training = {"step": step, "random": random_states(), "objects": objects}
        if self._sparse_optim is not None:
            training["sparse_optim"] = self._sparse_optim.state_dict()
        delta = self._last is not None and self._deltas_left > 0
        saver = SnapshotSaver(
            shard_index=int(os.environ.get("RANK", 0)),
            shard_num=int(os.environ.get("WORLD_SIZE", 1)),
            parallel=self._concurrency,
            path=self._output_dir,
            hashtables=sparse,
            tensors=dense,
            states={_TRAINING: training},
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
        if int(os.environ.get("RANK", 0)) == 0:
            collect_garbage(self._output_dir, self._max_keep, level="quick")

    def restore(self, step: int | None = None, *, strict: bool = False) -> int | None:
        """Goes on from a snapshot: model, tables, optimizers, generators and registered objects.

        The tables lose what they have.

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
        if step is None and not steps(self._output_dir):
            return None
        reader = open_snapshot(self._output_dir, step, strict)
        found = reader.manifest.step
        training = reader.dense(_TRAINING)
        unknown = self._objects.keys() - training["objects"].keys()
        if unknown:
            raise MismatchError(
                f"{reader.files.url} has no state of {', '.join(sorted(unknown))}, which "
                f"{'is' if len(unknown) == 1 else 'are'} registered"
            )
        sparse, dense = split_sparse_dense_state_dict(self._model.state_dict())
        Loader(
            reader.files.url,
            hashtables=sparse,
            tensors=dense,
            parallel=self._concurrency,
            clear=True,
            track=self._deltas > 0,
        ).load()
        if self._sparse_optim is not None and "sparse_optim" in training:
            self._sparse_optim.load_state_dict(training["sparse_optim"])
        for name, obj in self._objects.items():
            obj.load_state_dict(training["objects"][name])
        set_random_states(training["random"])
        self._last = found if self._deltas else None
        self._deltas_left = self._deltas
        return found
