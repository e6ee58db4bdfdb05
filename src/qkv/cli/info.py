"""``qkv info``: versions and what this machine offers, for a report of a problem."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from .report import reported

PACKAGES = ("qkv", "torch", "numpy", "transformers", "gguf", "accelerate")


@reported
def info(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """Show versions, strategies and processor features."""
    data = gather()
    if as_json:
        typer.echo(json.dumps(data, indent=1))
        return
    for name, value in data.items():
        said = value if isinstance(value, str) else "not installed" if value is None else ", ".join(value)
        typer.echo(f"{name:12} {said}")


def gather() -> dict[str, str | list[str] | None]:
    """What ``qkv info`` shows; a package that is missing is None."""
    import qkv

    found: dict[str, str | list[str] | None] = {name: _version(name) for name in PACKAGES}
    found["python"] = platform.python_version()
    found["system"] = platform.platform()
    found["strategies"] = list(qkv.strategies())
    try:
        found["compiler"] = qkv.compiler()
        found["processor"] = [name for name, usable in qkv.cpu_features().items() if usable]
        found["target"] = qkv.cpu_target()
    except ImportError:
        found["compiler"], found["processor"], found["target"] = "the compiled core is not built", [], "none"
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
