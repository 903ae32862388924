"""What commands print: JSON for machines, tables and progress for people."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]

_UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]


def print_json(value: Any) -> None:
    """One JSON document; numbers that JSON has not are texts."""
    print(json.dumps(_finite(value), indent=1, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table, numbers to the right."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        numbers = all(isinstance(row[index], int | float) for row in rows)
        table.add_column(column, justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*(_text(value) for value in row))
    console().print(table)


def say(text: str) -> None:
    """A line, whatever its width."""
    console().print(text, soft_wrap=True, markup=False, highlight=False)


def console() -> Console:
    """Where results go; wide enough for paths where nobody looks on."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=200)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, if that is a terminal, for what reports `(done, total)`."""
    error = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=error,
        transient=True,
        disable=not error.is_terminal,
    )
    with bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def size(count: int) -> str:
    """Bytes for people."""
    power = min(max(count.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    return f"{count / 1024**power:.{1 if power else 0}f} {_UNITS[power]}"


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
