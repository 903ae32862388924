"""`recis-ckpt cat`: rows by id."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from recis.snapshot.sources import check_slots, open_source
from recis_ckpt.output import JsonOption, print_json, print_table, say


def cat(
    path: Annotated[str, typer.Argument(help="A snapshot, a directory of them, or a store.")],
    table: Annotated[str, typer.Argument(help="The table's name.")],
    ids: Annotated[str, typer.Option(help="Ids, separated by commas.")],
    slot: Annotated[
        list[str] | None, typer.Option(help="A slot, may be repeated. Default, all.")
    ] = None,
    npz: Annotated[Path | None, typer.Option(help="Write arrays to this .npz file.")] = None,
    json: JsonOption = False,
) -> None:
    """Prints rows; of ids that have none, that they are missing.

    Example: recis-ckpt cat run7/snapshots users --ids 1,2,-3 --slot embedding
    """
    wanted = _parse(ids)
    with open_source(path) as source:
        slots = check_slots(source, table, slot)
        rows = source.find(table, torch.tensor(wanted), slots)
    found = rows.ids.tolist()
    missing = sorted(set(wanted) - set(found))
    if npz is not None:
        # numpy has no bfloat16; float32 holds each of its values.
        wide = {n: v.float() if v.dtype == torch.bfloat16 else v for n, v in rows.slots.items()}
        arrays: dict[str, Any] = {f"slot/{name}": values.numpy() for name, values in wide.items()}
        with open(npz, "wb") as file:
            np.savez(file, ids=rows.ids.numpy(), **arrays)
    if json:
        values = {name: rows.slots[name].tolist() for name in slots}
        listed = [
            {"id": id_, "slots": {name: values[name][i] for name in slots}}
            for i, id_ in enumerate(found)
        ]
        print_json({"path": path, "table": table, "rows": listed, "missing": missing})
        return
    if npz is not None:
        say(f"{len(found)} rows in {npz}")
    else:
        shown = [
            [str(id_), *(_brief(rows.slots[name][i]) for name in slots)]
            for i, id_ in enumerate(found)
        ]
        print_table(table, ["id", *slots], shown)
    if missing:
        say(f"no row: {', '.join(map(str, missing))}")


def _parse(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"expected ids such as 1,2,-3, found {text[:100]!r}") from None
    if any(not -(2**63) <= id_ < 2**63 for id_ in found):
        raise typer.BadParameter("an id is an integer of 64 bits")
    return list(dict.fromkeys(found))


def _brief(values: torch.Tensor) -> str:
    flat = values.flatten()
    shown = " ".join(f"{value:.6g}" for value in flat[:8].tolist())
    return shown + (f" ... ({flat.numel()})" if flat.numel() > 8 else "")
