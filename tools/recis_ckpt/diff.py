"""`recis-ckpt diff`: what two snapshots or stores have not in common."""

from typing import Annotated, Any

import typer

from recis.snapshot.diff import diff_table
from recis.snapshot.sources import open_source
from recis_ckpt.errors import FOUND
from recis_ckpt.output import JsonOption, print_json, print_table, say


def diff(
    a: Annotated[str, typer.Argument(help="A snapshot or a store.")],
    b: Annotated[str, typer.Argument(help="Another.")],
    json: JsonOption = False,
) -> None:
    """Counts rows added, removed and changed, and says by how much; exit code 1 if any.

    Dense values and what hooks have learnt are compared as files, of two snapshots.

    Example: recis-ckpt diff run7/snapshots/step-000000011000 run7/snapshots/step-000000012000
    """
    tables: dict[str, Any] = {}
    with open_source(a) as left, open_source(b) as right:
        for name in sorted({*left.tables(), *right.tables()}):
            found = diff_table(left, right, name)
            here = [name in source.tables() for source in (left, right)]
            tables[name] = {
                **found._asdict(),
                "slots": {slot: change._asdict() for slot, change in found.slots.items()},
                "in_a": here[0],
                "in_b": here[1],
                "same": found.same and here[0] == here[1],
            }
        sums = [left.state_sums(), right.state_sums()]
        # A store's state has no file to compare with those of a snapshot.
        both = type(left) is type(right)
    states = sorted(key for key in sums[0].keys() | sums[1].keys() if both and differs(sums, key))
    same = not states and all(table["same"] for table in tables.values())
    if json:
        print_json({"a": a, "b": b, "same": same, "tables": tables, "states": states})
    else:
        _show(tables, states, same)
    if not same:
        raise typer.Exit(FOUND)


def differs(sums: list[dict[str, str]], key: str) -> bool:
    """Whether a state is not in both, or not the same."""
    return sums[0].get(key) != sums[1].get(key)


def _show(tables: dict[str, Any], states: list[str], same: bool) -> None:
    if same:
        say("no difference")
        return
    rows = [
        [name, *t["rows"], t["added"], t["removed"], t["changed"]] for name, t in tables.items()
    ]
    print_table("rows", ["table", "in A", "in B", "added", "removed", "changed"], rows)
    slots = [
        [name, slot, change["rows"], change["max_abs"], change["mean_abs"], change["l2"]]
        for name, table in tables.items()
        for slot, change in table["slots"].items()
        if change["rows"]
    ]
    if slots:
        columns = ["table", "slot", "rows", "max |a-b|", "mean |a-b|", "L2"]
        print_table("values of rows in both", columns, slots)
    for name, table in tables.items():
        for what in ("slots_added", "slots_removed"):
            for slot in table[what]:
                say(f"table {name}: slot {slot} {what.removeprefix('slots_')}")
    for state in states:
        say(f"{state} differs")
