"""Where texts come in: files and strings, checked, with the standard library behind ``use``."""

from __future__ import annotations

import gc
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

from .. import limits
from ..errors import EinError, InternalError
from .check import Checked
from .check import check as check_text
from .graph import Definition
from .module import Callable_, Module
from .report import Source, raised


@lru_cache(maxsize=1)
def library() -> Mapping[str, Mapping[str, Definition]]:
    """The standard library: the definitions of each of its files."""
    found: dict[str, Mapping[str, Definition]] = {}
    for name in library_files():
        checked = check_text(Source(library_text(name), f"std/{name}.ein"), found)
        if checked.report.errors:
            raise InternalError(f"std/{name}.ein has mistakes:\n{raised(checked.source, checked.report.errors)}")
        found[name] = {n: checked.definitions[n] for n in checked.own}
    return found


def library_files() -> tuple[str, ...]:
    """The names of the standard library's files, without their ending."""
    folder = resources.files("qkv.ein").joinpath("std")
    return tuple(sorted(f.name.removesuffix(".ein") for f in folder.iterdir() if f.name.endswith(".ein")))


def library_text(name: str) -> str:
    """The text of a file of the standard library."""
    return resources.files("qkv.ein").joinpath("std", f"{name}.ein").read_text(encoding="utf-8")


def checked(text: str, name: str) -> Checked:
    """A text, read and checked, mistakes and all."""
    shared: Mapping[str, Mapping[str, Definition]] = library() if "use" in text else {}
    with _without_collecting():
        return check_text(Source(text, name), shared)


@contextmanager
def _without_collecting() -> Generator[None]:
    """Trees are many small objects that live until the text is read: a collector that looks at them again and again
    takes half the time. The length of a text is bounded, and so is what is made of it.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def check(text: str, name: str = "<text>") -> tuple[dict[str, Any], ...]:
    """Everything that is wrong with a text, as data: code, severity, message, file, line, column, sides, and a fix.

    Lines and columns are counted from 1. An empty tuple means that nothing was found. Nothing is run.

    >>> import qkv
    >>> [found["code"] for found in qkv.ein.check("fn f[q](X: [f32; q]) -> [f32] { sum[k](X[q]) }")]
    ['unknown-coordinate']
    """
    made = checked(text, name)
    return tuple(made.source.data(d) for d in made.report.all)


def source(text: str, name: str = "<text>") -> Module:
    """The functions that a text defines, callable with tensors: ``qkv.ein.source(text).f(Q, K, V)``.

    Raises ``EinError``, which shows every mistake with its line; warnings are kept in ``module.warnings``.

    >>> import qkv, torch
    >>> mod = qkv.ein.source("fn total[q](X: [f32; ..b, q]) -> [f32; ..b] { sum[q](X[..b, q]) }")
    >>> mod.total(torch.ones(2, 3))
    tensor([3., 3.])
    """
    made = checked(text, name)
    if made.report.errors:
        raise raised(made.source, made.report.errors)
    return Module(made)


def report(text: str, name: str = "<text>") -> str:
    """Everything that is wrong with a text, as it is printed; empty when nothing was found."""
    made = checked(text, name)
    return "\n\n".join(made.source.show(d) for d in made.report.all)


def fmt(text: str, name: str = "<text>") -> str:
    """The text in its one spelling, comments kept. Raises ``EinError`` for a text that cannot be read.

    >>> import qkv
    >>> print(qkv.ein.fmt("fn f[q](X:[f32;q])->[f32]{sum[q](X[q])}"), end="")
    fn f[q](X: [f32; q]) -> [f32] {
        sum[q](X[q])
    }
    """
    from .printer import formatted

    with _without_collecting():
        return formatted(Source(text, name))


def trial(function: Callable_, sizes: Mapping[str, int] | None = None, *, seed: int = 0) -> dict[str, Any]:
    """A function run on random tensors: the shapes of its results, and the strategies that ran its attention.

    Coordinates have the sizes of ``sizes``, 8 where it names none (2 for each of a rest).
    """
    from .sample import tried

    return tried(function, sizes or {}, seed)


@lru_cache(maxsize=32)
def std(name: str) -> Module:
    """A file of the standard library: ``qkv.ein.std("attention").causal(Q, K, V)``. Raises ``EinError`` for no such
    file.

    >>> import qkv
    >>> list(qkv.ein.std("latent"))
    ['latent', 'latent_absorbed']
    """
    if name not in library_files():
        raise EinError(f'the standard library has no "{name}".\n  std has {", ".join(library_files())}.')
    return source(library_text(name), f"std/{name}.ein")


def load(path: str | PathLike[str]) -> Module:
    """The functions that a file defines; as ``source``. Raises ``EinError`` for a file that cannot be read as text."""
    return source(read_file(path), str(path))


def read_file(path: str | PathLike[str]) -> str:
    """The text of a file, bounded. Raises ``EinError``."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(limits.EIN_CHARACTERS + 1)
        return data.decode("utf-8")
    except OSError as error:
        raise EinError(f"{path} cannot be read: {error.strerror or error}.\n  Give the path of an .ein file.") from None
    except UnicodeDecodeError:
        raise EinError(f"{path} is not text in UTF-8.\n  Give the path of an .ein file.") from None
