"""`recis-ckpt cat`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from recis.snapshot.read import open_snapshot
from recis.snapshot.sparse_file import slices_of
from recis_ckpt.arguments import Json, Source
from recis_ckpt.output import console, exit_if, print_json, print_table


def cat(
    source: Source,
    table: Annotated[str, typer.Argument(help="The table.")],
    ids: Annotated[str, typer.Option(help="Ids, with commas between them.")],
    slot: Annotated[list[str] | None, typer.Option(help="Only this slot; may be repeated.")] = None,
    as_json: Json = False,
    npz: Annotated[Path | None, typer.Option(help="Write the rows to this file.")] = None,
) -> None:
    """Shows the rows of some ids. Exits with 1 if one is not there.

    Example: recis-ckpt cat runs/7/snapshots users --ids 7,-1 --slot embedding
    """
    try:
        wanted = [int(id) for id in ids.split(",")]
        tensor = torch.tensor(wanted, dtype=torch.int64)
    except (ValueError, RuntimeError, OverflowError):
        raise typer.BadParameter(f"expected ids of 64 bits such as 7,-1, found {ids!r}") from None
    reader = open_snapshot(source)
    size = reader.table(table).slice_size
    found: dict[int, dict[str, torch.Tensor]] = {}
    for part in np.unique(slices_of(tensor.numpy(), size)).tolist():
        for rows in reader.read_rows(table, (part, part + 1), slot or None):
            at = {id: i for i, id in enumerate(rows.ids.tolist())}
            for id in at.keys() & set(wanted):
                found[id] = {name: values[at[id]] for name, values in rows.slots.items()}
    here = [id for id in dict.fromkeys(wanted) if id in found]
    missing = [id for id in dict.fromkeys(wanted) if id not in found]
    if npz is not None:
        names = next(iter(found.values()), {}).keys()
        stacked = {name: np.stack([_plain(found[id][name]) for id in here]) for name in names}
        np.savez(npz, allow_pickle=False, **stacked, ids=np.array(here, np.int64))
    elif as_json:
        rows_json = {str(id): {n: v.tolist() for n, v in found[id].items()} for id in here}
        print_json({"rows": rows_json, "missing": missing})
    else:
        cells = [(id, name, value.tolist()) for id in here for name, value in found[id].items()]
        print_table(table, ["id", "slot", "value"], cells)
    if missing and not as_json:
        console.print(f"not there: {', '.join(map(str, missing))}")
    exit_if(missing)


def _plain(value: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """As numpy has it: bfloat16 becomes float32."""
    plain: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = (
        value.float() if value.dtype == torch.bfloat16 else value
    ).numpy()
    return plain
