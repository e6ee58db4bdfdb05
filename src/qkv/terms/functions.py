"""Which torch functions can be recorded, and as what.

A function of coordinates may call torch's pointwise functions, and tensors may stand on either side of an operator;
torch hands such calls to us by name. This module knows the names; it refuses to know how symbols are made
(``trace``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import TraceError
from .symbol import Operand, Symbol, logical, lookup, node_of, record, where

_BY_NAME: dict[str, str] = {
    "add": "add", "sub": "sub", "subtract": "sub", "mul": "mul", "multiply": "mul", "true_divide": "div",
    "floor_divide": "floordiv", "remainder": "mod", "pow": "pow", "minimum": "min", "maximum": "max",
    "lt": "lt", "less": "lt", "le": "le", "less_equal": "le", "gt": "gt", "greater": "gt", "ge": "ge",
    "greater_equal": "ge", "eq": "eq", "ne": "ne", "not_equal": "ne",
    "exp": "exp", "log": "log", "sqrt": "sqrt", "tanh": "tanh", "sigmoid": "sigmoid", "erf": "erf", "sin": "sin",
    "cos": "cos", "abs": "abs", "absolute": "abs", "floor": "floor", "neg": "neg", "negative": "neg",
}  # fmt: skip
_OPERATORS = {
    "__add__": "add", "__sub__": "sub", "__mul__": "mul", "__truediv__": "div", "__floordiv__": "floordiv",
    "__mod__": "mod", "__pow__": "pow", "__lt__": "lt", "__le__": "le", "__eq__": "eq", "__ne__": "ne",
    "__gt__": "gt", "__ge__": "ge", "__abs__": "abs",
}  # fmt: skip
_REFLECTED = {
    "__radd__": "add", "__rsub__": "sub", "rsub": "sub", "__rmul__": "mul", "__rtruediv__": "div", "__rdiv__": "div",
    "__rfloordiv__": "floordiv", "__rmod__": "mod", "__rpow__": "pow",
}  # fmt: skip
_LOGICAL = {
    "__and__": "and", "bitwise_and": "and", "logical_and": "and", "__or__": "or", "bitwise_or": "or",
    "logical_or": "or", "__xor__": "xor", "bitwise_xor": "xor", "logical_xor": "xor", "__invert__": "not",
    "bitwise_not": "not", "logical_not": "not",
}  # fmt: skip


def torch_call(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Symbol:
    """What a torch function records when an argument is a symbol; ``TraceError`` for one with no operation of ours."""
    name = getattr(func, "__name__", str(func))
    if name == "__getitem__":
        return lookup(args[0], args[1])
    if name == "where":
        return where(*args, **kwargs)
    if name in ("clamp", "clip"):
        return _clamp(*args, **kwargs)
    if name in ("div", "divide"):
        return _divide(*args, **kwargs)
    if not kwargs:
        if name in _LOGICAL:
            return logical(_LOGICAL[name], *args)
        if name in _REFLECTED:
            return record(_REFLECTED[name], args[1], args[0])
        for table in (_BY_NAME, _OPERATORS):
            if name in table:
                return record(table[name], *args)
    known = sorted({n for n in (*_BY_NAME, *_LOGICAL) if not n.startswith("_")} | {"where", "clamp", "div"})
    raise TraceError(
        f"torch function {name} cannot be recorded in a function of coordinates.\n  Known: {', '.join(known)}."
    )


def _divide(value: Operand, divisor: Operand, *, rounding_mode: str | None = None) -> Symbol:
    if rounding_mode not in (None, "floor"):
        raise TraceError(
            f'div(rounding_mode="{rounding_mode}") cannot be recorded.\n  Write a // b, which rounds down.'
        )
    return record("floordiv" if rounding_mode else "div", value, divisor)


def _clamp(value: Operand, min: Operand = None, max: Operand = None) -> Symbol:
    return Symbol(node_of(value)).clamp(min, max)
