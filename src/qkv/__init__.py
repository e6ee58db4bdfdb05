"""qkv: attention over named coordinates. Say what is attended; qkv checks it, plans how to run it, runs it, and shows
what happened.

The names are those of ``qkv.face``, and the modules ``qkv.nn``, ``qkv.testing`` and ``qkv.transformers``. They are
loaded when the first of them is asked for, so that ``import qkv`` costs milliseconds and a command line answers at
once.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import nn as nn
    from . import testing as testing
    from . import transformers as transformers
    from .face import *  # noqa: F403
    from .face import __all__ as __all__


def __getattr__(name: str) -> Any:
    # A module comes first: rooms import one another while the face is still loading.
    if not name.startswith("_") and find_spec(f"qkv.{name}") is not None:
        return import_module(f"qkv.{name}")
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module 'qkv' has no attribute {name!r}")
    face = import_module("qkv.face")
    if not hasattr(face, name):
        raise AttributeError(f"module 'qkv' has no attribute {name!r}; qkv.face lists its names")
    globals()[name] = getattr(face, name)
    return globals()[name]


def __dir__() -> list[str]:
    return [*import_module("qkv.face").__all__, "nn", "testing", "transformers"]
