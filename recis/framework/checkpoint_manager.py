"""`CheckpointManager`: when to save, and what to do when training is asked to stop."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import weakref
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from recis.framework.saver import Checkpointable, Saver

logger = logging.getLogger(__name__)

_TERMINATED = 128 + signal.SIGTERM


class CheckpointManager:
    """Counts steps, saves every so many of them, and before a SIGTERM ends the process.

    After a SIGTERM the step that is being made ends, `step` saves and exits with status 143. The
    handler that was there before is called at once. Of several workers in a process group, one
    that is told ends all, after the same step: `step` is a collective of theirs.

    A manager of another thread than the main one hears of no signal.

    Args:
        saver: what saves.
        save_interval: steps between two snapshots.

    Example:
        >>> model = torch.nn.Linear(1, 1)
        >>> manager = CheckpointManager(Saver(model, output_dir="runs/1"), save_interval=1000)
        >>> manager.global_step
        0
    """

    def __init__(self, saver: Saver, save_interval: int) -> None:
        if not isinstance(save_interval, int) or save_interval < 1:
            raise ValueError(f"save_interval must be a positive int, found {save_interval!r}")
        self._saver = saver
        self._interval = save_interval
        self._step = 0
        self._saved: int | None = None
        self._group: Any = None
        self.terminated = False
        """Whether there was a SIGTERM."""
        if threading.current_thread() is threading.main_thread():
            _handle_sigterm(self)

    @property
    def global_step(self) -> int:
        """Steps made so far, those before a restore included."""
        return self._step

    def step(self) -> None:
        """A step of training has been made.

        Raises:
            SystemExit: there was a SIGTERM; a snapshot of this step is there.
            OSError: a snapshot cannot be written; earlier ones are intact.
        """
        self._step += 1
        if self._anyone_terminated():
            logger.warning("SIGTERM: saving step %d, then exiting", self._step)
            self.save()
            self._saver.wait()
            sys.exit(_TERMINATED)
        if self._step % self._interval == 0:
            self.save()

    def save(self) -> None:
        """Saves now, unless this step is saved already.

        Raises:
            OSError: it cannot be written; earlier snapshots are intact.
        """
        if self._saved != self._step:
            self._saver.save(self._step)
            self._saved = self._step

    def restore(self, global_step: int | None = None, *, strict: bool = False) -> int | None:
        """Goes on from the snapshot of a step, by default the newest; see `Saver.restore`.

        Args:
            global_step: of the snapshot.
            strict: whether to refuse when the newest is damaged. Otherwise the newest that is
                not is restored, with a warning.

        Returns:
            Its step; None if there is no snapshot at all.
        """
        found = self._saver.restore(global_step, strict=strict)
        if found is not None:
            self._step = self._saved = found
        return found

    def register_for_checkpointing(
        self, name: str, obj: Checkpointable, *, per_worker: bool = False
    ) -> None:
        """Saves and restores one more object; see `Saver.register_for_checkpointing`."""
        self._saver.register_for_checkpointing(name, obj, per_worker=per_worker)

    def load_model_bank(self) -> int | None:
        """Restores the newest snapshot, as upstream's model bank does by default."""
        return self.restore()

    def _anyone_terminated(self) -> bool:
        """Whether this worker or another one was told to end."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return self.terminated
        if self._group is None:  # of its own: an asynchronous save may be using that of saves
            self._group = dist.new_group(backend="gloo")
        told = torch.tensor(int(self.terminated))
        dist.all_reduce(told, dist.ReduceOp.MAX, group=self._group)
        return bool(told)


def _handle_sigterm(manager: CheckpointManager) -> None:
    """Tells a manager of a SIGTERM for as long as it lives, and does not keep it alive."""
    found = weakref.ref(manager)
    earlier = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        manager = found()
        if manager is not None:
            manager.terminated = True
        if callable(earlier):
            earlier(number, frame)
        elif manager is None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, handle)
