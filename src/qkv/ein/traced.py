"""Calls of definitions inside ``torch.compile``: what a signature settles is settled while the graph is made.

The graph then holds the steps of the definition, attention among them as one operator. This module knows how arguments
are told apart without their values; it refuses to know what is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..terms.worded import found

if TYPE_CHECKING:
    from .module import Ready


def _constant(function: Callable[..., str]) -> Callable[..., str]:
    """The function, called while a graph is made, its word a constant there. This module is loaded by such a call."""
    import torch

    marked: Any = torch.compiler.assume_constant_result  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return marked(function)


def shown(argument: Any) -> Any:
    """An argument as a graph knows it: shape, element type and device of a tensor, and anything else itself."""
    if not hasattr(argument, "requires_grad"):
        return argument
    # written out, a size that a compiler left open becomes a number
    return tuple([f"{n}" for n in argument.shape]), str(argument.dtype).removeprefix("torch."), str(argument.device)


@_constant
def _word_of(
    word: str, signature: tuple[tuple[Any, str, str] | float, ...], options: tuple[tuple[str, Any], ...]
) -> str:
    made = repr((word, signature, options))
    if made in _ready:
        return made
    import torch

    arguments: list[Any] = []
    for x in signature:
        if isinstance(x, tuple):
            shape, elem, device = x
            # one element stands for all: nothing reads values here
            arguments.append(torch.empty((), dtype=getattr(torch, elem), device=device).expand([int(n) for n in shape]))
        else:
            arguments.append(x)
    _ready[made] = found(word).ready(tuple(arguments), dict(options))
    return made


_ready: dict[str, Ready] = {}


def ready_for(word: str, args: tuple[Any, ...], options: tuple[tuple[str, Any], ...]) -> Ready:
    """The function with this word, ready for such arguments. Raises ``EinError`` where they do not fit."""
    return _ready[_word_of(word, tuple([shown(a) for a in args]), options)]
