"""Counters that the engine does not keep: of exchanges and of snapshots."""

from __future__ import annotations

import threading

Counts = dict[str, int | float]
"""What was counted, by name."""


class Counters:
    """Numbers that only grow. Any thread may add to them."""

    def __init__(self, *names: str) -> None:
        self._values: Counts = dict.fromkeys(names, 0)
        self._lock = threading.Lock()

    def add(self, **amounts: float) -> None:
        """Adds to counters that there are."""
        with self._lock:
            for name, amount in amounts.items():
                self._values[name] += amount

    def read(self) -> Counts:
        """All of them as of one moment."""
        with self._lock:
            return dict(self._values)


EXCHANGES = Counters("collectives", "sent_bytes", "received_bytes")
"""Of this process: the collectives that look up and insert, and what others were sent or sent."""

SNAPSHOTS = Counters("saves", "failures", "written_bytes", "seconds")
"""Of this process: snapshots saved, or not, and of those that were its own files and the time."""


def table_requests() -> Counters:
    """Of a table that several workers hold: what this worker looked up.

    `batch_ids` are those of its batches, repeats included, of which `requested_ids` went out, each
    once a look-up, `remote_ids` of them to other workers.
    """
    return Counters("batch_ids", "requested_ids", "remote_ids")
