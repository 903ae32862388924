"""The command `recis-ckpt`, and what becomes of errors."""

from __future__ import annotations

import logging

import typer

from recis.snapshot.errors import DamagedError
from recis_ckpt import compare, inspect, remove, rewrite, rows, stores, verify
from recis_ckpt.output import DIFFERENT, UNUSABLE, errors, escape

app = typer.Typer(
    name="recis-ckpt",
    help="Looks at snapshots and stores of recis, and changes them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 all is well, 1 damage or a difference was found, 2 it could not be done.",
)
app.command("inspect")(inspect.inspect)
app.command("verify")(verify.verify)
app.command("cat")(rows.cat)
app.command("diff")(compare.diff)
app.command("reshard")(rewrite.reshard)
app.command("compact")(rewrite.compact)
app.command("save")(stores.save)
app.command("load")(stores.load)
app.command("gc")(remove.gc)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command line and returns its exit code; no error is a traceback."""
    logging.basicConfig(format="warning: %(message)s", level=logging.WARNING)
    try:
        app(arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    except DamagedError as error:
        return _say(error, DIFFERENT)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, MemoryError) as error:
        return _say(error, UNUSABLE)
    return 0


def _say(error: BaseException, code: int) -> int:
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    errors.print(f"[bold red]error:[/] {escape(str(text))}", highlight=False)
    return code
