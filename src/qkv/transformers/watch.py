"""Who looks at an attention call: a check in progress, or the check that a model's first use begins.

This is the one place with state: the attention modules that have been looked at. It knows when to look and refuses to
know how to compare.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from .attention import Said


@dataclass(frozen=True, slots=True)
class Call:
    """One attention call: what the model sent, what its mask said, and what came out."""

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    said: Said
    sent: dict[str, Any]
    dropout: float
    output: Tensor


_seen: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_watcher: ContextVar[Callable[[Call], None] | None] = ContextVar("qkv_transformers_watcher", default=None)


def wanted(module: nn.Module) -> bool:
    """Whether a call of ``module`` is to be looked at."""
    return module not in _seen or _watcher.get() is not None


def examine(call: Call) -> None:
    """Shows the call to the check in progress, or begins the check of a first use. Raises ``ModelError`` when that
    check fails.
    """
    watcher = _watcher.get()
    if watcher is not None:
        watcher(call)
        return
    from .check import first_use

    first_use(call)


def seen(module: nn.Module) -> None:
    """Notes that ``module`` needs no further look."""
    _seen.add(module)


@contextmanager
def watching(watcher: Callable[[Call], None]) -> Generator[None]:
    """Every attention call of this thread goes to ``watcher`` meanwhile, and none begins a check."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)
