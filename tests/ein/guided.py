"""Texts found by coverage: run with the options of libFuzzer, ``python guided.py CORPUS -runs=100000``.

Bytes are read as a file of the notation would be. What reads, checks and prints them is instrumented, so that a text
which takes a new way through it is kept and changed further.
"""

from __future__ import annotations

import inspect
import sys
from pkgutil import iter_modules
from types import FunctionType, ModuleType

import atheris

import qkv
import qkv.ein
import qkv.ein.door
import qkv.ein.printer


def main() -> None:
    """Instruments the room and runs until it is told to stop."""
    qkv.ein.check("use std::attention;")  # the library, which is none of the texts
    for module in iter_modules(qkv.ein.__path__, "qkv.ein."):
        if module.name in sys.modules:
            instrument(sys.modules[module.name])
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


def instrument(module: ModuleType) -> None:
    """The module's functions and methods, in place: its loader may be an installer's own, which is not looked into."""
    for thing in vars(module).values():
        if getattr(thing, "__module__", None) != module.__name__:
            continue
        for function in vars(thing).values() if inspect.isclass(thing) else (thing,):
            made = getattr(function, "__func__", function)
            if isinstance(made, FunctionType) and made.__code__.co_filename == module.__file__:
                atheris.instrument_func(made)


def one(data: bytes) -> None:
    """Checks, shows and formats one text; only the errors that are meant may be raised."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return
    found = qkv.ein.check(text)
    if not all(d["code"] and d["message"] and d["line"] >= 1 and d["column"] >= 1 for d in found):
        raise AssertionError(found)
    for shown in qkv.ein.report(text).split("\n\n") if found else []:
        if len(shown.splitlines()) > 8:
            raise AssertionError(shown)
    try:
        once = qkv.ein.fmt(text)
    except qkv.EinError:
        return
    if qkv.ein.fmt(once) != once:
        raise AssertionError(once)


if __name__ == "__main__":
    main()
