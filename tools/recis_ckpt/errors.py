"""How what goes wrong is told: one paragraph and an exit code, never a traceback."""

import logging
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup
from typing_extensions import override

from recis.snapshot.errors import DamagedError

OK, FOUND, UNUSABLE = 0, 1, 2
"""Exit codes: all is well; damage or a difference was found; usage or environment."""


class Commands(TyperGroup):
    """The commands. Whatever one of them raises ends as text on stderr."""

    @override
    def invoke(self, ctx: Any) -> Any:
        logging.basicConfig(format="recis-ckpt: warning: %(message)s", level=logging.WARNING)
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:  # whoever reads has read enough; what is left must not fail at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(UNUSABLE) from None
        except Exception as error:
            if _belongs_to_typer(error):
                raise
            print(f"recis-ckpt: {_text(error)}", file=sys.stderr)
            raise typer.Exit(FOUND if isinstance(error, DamagedError) else UNUSABLE) from None


def _belongs_to_typer(error: Exception) -> bool:
    """Usage errors, and exits that a command asked for."""
    return type(error).__module__.partition(".")[0] in ("typer", "click")


def _text(error: Exception) -> str:
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) else error).split())
    named = type(error).__module__.partition(".")[0] == "recis" or isinstance(
        error, ValueError | RuntimeError | FileNotFoundError | FileExistsError
    )
    return text if named and text else f"{type(error).__name__}: {text}"
