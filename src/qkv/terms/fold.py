"""Constant folding and neutral elements: the small simplifications made while a graph is built.

They keep traced graphs readable and derivatives short. Only rules that are exact for every value are here:
``x * 0`` is not 0 when ``x`` may be NaN or infinite, so it folds only for the kinds bool and int.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .expr import Node

Number = bool | int | float

PYTHON: dict[str, Callable[..., Number]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv,
    "floordiv": operator.floordiv, "mod": operator.mod, "pow": operator.pow, "neg": operator.neg, "abs": abs,
    "lt": operator.lt, "le": operator.le, "eq": operator.eq, "ne": operator.ne, "gt": operator.gt, "ge": operator.ge,
    "and": lambda a, b: bool(a) and bool(b), "or": lambda a, b: bool(a) or bool(b), "xor": lambda a, b: bool(a) != bool(b),
    "not": operator.not_, "min": min, "max": max, "exp": math.exp, "log": math.log, "sqrt": math.sqrt,
    "tanh": math.tanh, "erf": math.erf, "sin": math.sin, "cos": math.cos, "float": float, "floor": math.floor,
    "sigmoid": lambda x: 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x)),
    "select": lambda c, a, b: a if c else b,
}  # fmt: skip
"""Each operation on Python numbers."""


def fold(operation: str, operands: tuple[Node, ...]) -> Node | None:
    """A simpler node of the same value and kind, or None when there is none."""
    from .expr import OPERATIONS, Constant, result_kind

    values = [o.value if isinstance(o, Constant) else None for o in operands]
    if all(isinstance(o, Constant) for o in operands):
        kind = result_kind(OPERATIONS[operation], operands)
        try:
            value = PYTHON[operation](*values)
        except (ArithmeticError, ValueError):
            return None  # 1 // 0 and log(-1) keep their meaning of run time: inf or NaN, never an exception here
        if isinstance(value, complex):
            return None
        return Constant((bool, int, float)[kind](value)) if not (kind == 1 and not math.isfinite(value)) else Constant(value)
    if operation == "select" and isinstance(operands[0], Constant):
        chosen = operands[1] if values[0] else operands[2]
        return chosen if chosen.kind == max(operands[1].kind, operands[2].kind) else None
    if operation == "select" and operands[1] == operands[2]:
        return operands[1]
    if len(operands) == 2:
        return _binary(operation, operands[0], operands[1], values[0], values[1])
    return None


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
