"""How commands end: a mistake of the caller's is one line on stderr and exit status 2, without a traceback."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

import typer

from qkv.errors import InternalError, QkvError

MISSED = 1
"""Exit status when a command ran and what it checks does not hold."""
WRONG = 2
"""Exit status when what was given cannot be used."""

INTERRUPTED = 130
"""Exit status when the user stopped it, as shells count: 128 and the number of the signal."""

P = ParamSpec("P")


def one_line(error: BaseException) -> str:
    """The message of an error on one line."""
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


def reported(command: Callable[P, None]) -> Callable[P, None]:
    """The command with its ``QkvError`` turned into a line on stderr and exit status 2."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except InternalError:
            raise  # a fault of qkv's own: the traceback is what a report needs
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except QkvError as error:
            typer.echo(f"qkv: {one_line(error)}", err=True)
            raise typer.Exit(WRONG) from None

    return run


def unwritable(path: object, error: OSError) -> typer.Exit:
    """Say that a file cannot be written; the exit to raise."""
    typer.echo(f"qkv: cannot write {path}: {error.strerror or error}.", err=True)
    return typer.Exit(WRONG)
