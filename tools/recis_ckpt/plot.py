"""The picture of `recis-ckpt inspect --plot`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from recis.snapshot.merge import Rows
from recis.snapshot.sources import SLICE_SIZE, Source

_SAMPLE_ROWS = 100_000


def draw(source: Source, path: Path) -> None:
    """A row of pictures for each table: all slices, and the rows of the first of them.

    Raises:
        OSError: the picture cannot be written.
        ValueError: its name is none of a picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tables = source.tables()
    figure, places = pyplot.subplots(
        max(1, len(tables)), 3, figsize=(14, 3.2 * max(1, len(tables))), squeeze=False
    )
    for row, table in zip(places, tables, strict=False):
        slots = source.slots(table)
        counters = [s.name for s in slots[1:] if s.dtype.startswith("I") and s.shape == (1,)]
        size = source.slice_size(table) or SLICE_SIZE
        sample = list(_sample(source, table, size, [slots[0].name, *counters]))
        counts = source.count_slices(table, size)
        row[0].hist(np.arange(size), bins=min(size, 64), weights=counts)
        row[0].set(title=f"{table}: {counts.sum():,} rows by slice", xlabel="slice")
        norms = [piece.slots[slots[0].name].double().flatten(1).norm(dim=1) for piece in sample]
        row[1].hist(torch.cat(norms or [torch.empty(0)]).nan_to_num().numpy(), bins=64)
        row[1].set(title=f"{table}: norm of {slots[0].name}", xlabel="norm")
        for name in counters:
            values = [piece.slots[name].flatten() for piece in sample]
            whole = torch.cat(values or [torch.empty(0)]).numpy()
            row[2].hist(whole, bins=64, histtype="step", label=name)
        row[2].set(title=f"{table}: counters", xlabel="value")
        row[2].legend() if counters else row[2].set_axis_off()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _sample(source: Source, table: str, size: int, slots: list[str]) -> Iterator[Rows]:
    left = _SAMPLE_ROWS
    for piece in source.read_rows(table, size, slots):
        yield Rows(piece.ids[:left], {name: v[:left] for name, v in piece.slots.items()})
        left -= piece.ids.numel()
        if left <= 0:
            return
