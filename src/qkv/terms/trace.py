"""Recording a function of coordinates: its parameters' names are the coordinates it depends on.

The function is called once with symbols. While it runs, indexing a tensor with a symbol records a lookup, wherever
the tensor comes from: a closure, a global, ``self.table``. This module knows how to call and what to refuse; what a
coordinate means is the scope's matter.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import QkvError, TraceError
from .expr import Kind, Node, Position, Score, reads_score
from .functions import torch_call
from .symbol import Symbol, node_of

SCORE = "score"
"""The parameter that stands for the score so far in a score function."""


def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of the function's parameters; ``TraceError`` for defaults, ``*args`` and keyword-only ones."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise TraceError(f"{function!r} has no readable signature.\n  Wrap it: lambda i, j: f(i, j).") from None
    for parameter in signature.parameters.values():
        if (
            parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.POSITIONAL_ONLY)
            or parameter.default is not parameter.empty
        ):
            raise TraceError(
                f"parameter `{parameter}` of {name_of(function)} is not a plain one.\n"
                "  Parameters name coordinates: lambda i, j: ...; capture other values from outside."
            )
    return tuple(signature.parameters)


def name_of(function: Callable[..., Any]) -> str:
    """How messages call the function."""
    name = getattr(function, "__qualname__", type(function).__name__)
    return "the lambda" if "<lambda>" in name else f"function {name.rsplit('.', 1)[-1]}"


def trace(function: Callable[..., Any], arguments: Sequence[Node], expected: Kind) -> Node:
    """The graph that ``function`` computes from ``arguments``, of kind ``expected`` (bool for keep, float for score).

    Raises ``TraceError`` when the function does something that cannot be recorded, or returns another kind.
    """
    from torch.overrides import TorchFunctionMode

    class Recording(TorchFunctionMode):
        """Sends torch calls that involve a symbol to us; every other call goes its ordinary way."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if _mentions_symbol(args) or _mentions_symbol(tuple(kwargs.values())):
                return torch_call(func, args, kwargs)
            return func(*args, **kwargs)

    with Recording():
        try:
            result = function(*(Symbol(a) for a in arguments))
        except QkvError:
            raise
        except (TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
            raise TraceError(
                f"{name_of(function)} failed while it was recorded: {type(error).__name__}: {error}\n"
                "  Its parameters are symbols; use arithmetic, comparisons, & | ~, torch's pointwise functions, and "
                "torch tensors (no lists, no numpy arrays) indexed by coordinates."
            ) from error
    return _checked(function, result, expected)


def trace_named(function: Callable[..., Any], expected: Kind) -> tuple[tuple[str, ...], Node]:
    """The parameters of ``function`` and its graph, each parameter standing for the coordinate of its name."""
    names = parameters(function)
    arguments = [Score() if name == SCORE and expected is Kind.FLOAT else Position(name) for name in names]
    return names, trace(function, arguments, expected)


def _mentions_symbol(values: Any) -> bool:
    for value in values:
        if isinstance(value, Symbol) or (isinstance(value, tuple | list) and _mentions_symbol(value)):
            return True
    return False


def _checked(function: Callable[..., Any], result: Any, expected: Kind) -> Node:
    if result is None:
        raise TraceError(f"{name_of(function)} returns nothing.\n  A def needs a return: return i >= j.")
    node = node_of(result)
    if expected is Kind.BOOL and node.kind is not Kind.BOOL:
        raise TraceError(
            f"{name_of(function)} returns {node.kind.words}, and keep needs a truth value.\n"
            "  Compare: i - j < 8. True means that the key is kept."
        )
    if expected is Kind.FLOAT and node.kind is Kind.BOOL:
        raise TraceError(
            f"{name_of(function)} returns a truth value, and score needs a number.\n"
            "  To drop keys give the function as keep=qkv.keep(...)."
        )
    if expected is Kind.FLOAT and not reads_score(node):
        raise TraceError(
            f"{name_of(function)} does not use the score it is given.\n"
            "  Its first parameter is called `score`: lambda score, h, i, j: score - slope[h] * (i - j)."
        )
    return node
