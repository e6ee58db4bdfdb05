"""Constant folding and neutral elements: the small simplifications made while a graph is built.

They keep traced graphs readable and derivatives short. Only rules that are exact for every value, but for the sign
of a zero, are here: ``x * 0`` is not 0 when ``x`` may be NaN or infinite, so it folds only for the kinds bool and int.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .expr import Node

Number = bool | int | float

INT64 = range(-(2**63), 2**63)
"""The whole numbers that tensors hold."""

_LARGEST_EXPONENT = 1024  # beyond, a power of whole numbers leaves int64, after much work


def _sigmoid(x: Number) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def _divide(a: Number, b: Number) -> float:
    return a / b


def _divide_down(a: Number, b: Number) -> Number:
    return a // b


def _power(a: Number, b: Number) -> Any:
    return a**b


def _and(a: Number, b: Number) -> bool:
    return bool(a) and bool(b)


def _or(a: Number, b: Number) -> bool:
    return bool(a) or bool(b)


def _xor(a: Number, b: Number) -> bool:
    return bool(a) != bool(b)


def _select(condition: Number, chosen: Number, other: Number) -> Number:
    return chosen if condition else other


PYTHON: dict[str, Callable[..., Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": _divide,
    "floordiv": _divide_down, "mod": operator.mod, "pow": _power, "neg": operator.neg, "abs": abs,
    "lt": operator.lt, "le": operator.le, "eq": operator.eq, "ne": operator.ne, "gt": operator.gt, "ge": operator.ge,
    "and": _and, "or": _or, "xor": _xor, "not": operator.not_, "min": min, "max": max, "exp": math.exp,
    "log": math.log, "sqrt": math.sqrt, "tanh": math.tanh, "erf": math.erf, "sin": math.sin, "cos": math.cos,
    "float": float, "floor": math.floor, "sigmoid": _sigmoid, "select": _select,
}  # fmt: skip
"""Each operation on Python numbers."""


def fold(operation: str, operands: tuple[Node, ...]) -> Node | None:
    """A simpler node of the same value and kind, or None when there is none."""
    from .expr import OPERATIONS, Constant, Kind, result_kind

    values = [o.value if isinstance(o, Constant) else None for o in operands]
    if all(isinstance(o, Constant) for o in operands):
        value = _computed(operation, [o.value for o in operands if isinstance(o, Constant)])
        kind = result_kind(OPERATIONS[operation], operands)
        if value is None or (kind == Kind.INT and not INT64.start <= value < INT64.stop):
            return None
        return Constant((bool, int, float)[kind](value))
    if operation == "select" and isinstance(operands[0], Constant):
        chosen = operands[1] if values[0] else operands[2]
        return chosen if chosen.kind == max(operands[1].kind, operands[2].kind) else None
    if operation == "select" and operands[1] == operands[2]:
        return operands[1]
    if len(operands) == 2:
        return _binary(operation, operands[0], operands[1], values[0], values[1])
    return None


def _computed(operation: str, values: list[Number]) -> Number | None:
    """The operation on numbers, or None where Python has no answer or one that tensors would not give."""
    if operation in ("min", "max") and any(math.isnan(v) for v in values):  # Python's min may drop a NaN
        return None
    if operation == "pow" and isinstance(values[1], int) and abs(values[1]) > _LARGEST_EXPONENT:
        return None
    try:
        value = PYTHON[operation](*values)
    except (ArithmeticError, ValueError):
        return None  # 1 // 0 and log(-1) keep their meaning of run time; never an exception here
    return None if isinstance(value, complex) else value


def _binary(operation: str, left: Node, right: Node, a: Number | None, b: Number | None) -> Node | None:
    """Neutral and absorbing elements of the two-operand operations."""
    from .expr import Constant, Kind

    def same_kind(node: Node, constant: Node) -> bool:
        return node.kind >= max(constant.kind, Kind.INT)

    zero_a, zero_b = a is not None and a == 0, b is not None and b == 0
    if operation == "add" and zero_a and same_kind(right, left):
        return right
    if operation in ("add", "sub") and zero_b and same_kind(left, right):
        return left
    if operation == "mul":
        if a == 1 and same_kind(right, left):
            return right
        if b == 1 and same_kind(left, right):
            return left
        if (zero_a or zero_b) and max(left.kind, right.kind) <= Kind.INT:
            return Constant(0)
    if operation == "floordiv" and b == 1 and left.kind == Kind.INT and right.kind != Kind.FLOAT:
        return left
    if operation in ("and", "or") and left.kind == right.kind == Kind.BOOL:
        absorbing = operation == "or"
        for value, other in ((a, right), (b, left)):
            if value is not None:
                return Constant(absorbing) if bool(value) == absorbing else other
        if left == right:
            return left
    return None
