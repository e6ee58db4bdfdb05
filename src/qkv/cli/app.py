"""The commands of ``qkv``, put together."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from .ein import app as ein
from .fit import fit
from .flops import flops
from .generate import generate
from .info import info
from .recommend import recommend
from .size import size
from .table import table

app = typer.Typer(
    name="qkv",
    help="Attention by named coordinates: one contract, every mechanism, any strategy.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(table)
app.command()(generate)
app.command()(info)
app.command()(size)
app.command()(fit)
app.command()(recommend)
app.command()(flops)
app.add_typer(ein, name="ein")


def qkv_version() -> str:
    """The installed version; a source tree that is not installed says so."""
    try:
        return version("qkv")
    except PackageNotFoundError:
        return "(source tree, not installed)"


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"qkv {qkv_version()}")
        raise typer.Exit


@app.callback()
def options(
    shown: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Attention by named coordinates: one contract, every mechanism, any strategy."""
    del shown
