"""The slopes of pointwise functions: what a cotangent becomes on its way to each argument.

Where a function has a corner, the slope is the one that torch's autograd takes: 0 for ``abs`` and ``relu`` at 0, halves
where both arguments of ``min`` or ``max`` are the same. Knows single values; coordinates are the sweep's matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from .graph import Node
from .making import Maker, is_number

Slopes = tuple[Node | None, ...]


def slopes(make: Maker, node: Node, cotangent: Node) -> Slopes:
    """The cotangent of each argument of a pointwise node; None where nothing flows."""
    rule = _RULES.get(node.data)
    return (None,) * len(node.args) if rule is None else rule(make, node, cotangent)


def _add(make: Maker, node: Node, d: Node) -> Slopes:
    return d, d


def _sub(make: Maker, node: Node, d: Node) -> Slopes:
    return d, make.point("neg", d)


def _neg(make: Maker, node: Node, d: Node) -> Slopes:
    return (make.point("neg", d),)


def _mul(make: Maker, node: Node, d: Node) -> Slopes:
    a, b = node.args
    return make.mul(d, b), make.mul(d, a)


def _div(make: Maker, node: Node, d: Node) -> Slopes:
    _, b = node.args
    return make.div(d, b), make.point("neg", make.div(make.mul(d, node), b))


def _mod(make: Maker, node: Node, d: Node) -> Slopes:
    a, b = node.args
    return d, make.point("neg", make.mul(d, make.point("floor", make.div(a, b))))


def _pow(make: Maker, node: Node, d: Node) -> Slopes:
    a, b = node.args
    if b.op == "number":
        if is_number(b, 0):
            return None, None
        one_less = a if is_number(b, 2) else make.point("pow", a, make.number(b.data - 1))
        return make.mul(d, make.mul(b, one_less) if b.data != 1 else make.number(1)), None
    zero = make.number(0)
    down = make.mul(d, make.mul(b, make.point("pow", a, make.sub(b, make.number(1)))))
    base = make.choose(make.point("ne", b, zero), down)
    flat = make.point("and", make.point("eq", a, zero), make.point("ge", b, zero))
    up = make.mul(make.mul(d, node), make.point("log", a))
    return base, make.choose(make.point("not", flat), up)


def _select(make: Maker, node: Node, d: Node) -> Slopes:
    test = node.args[0]
    return None, make.choose(test, d), make.choose(make.point("not", test), d)


def _extreme(make: Maker, node: Node, d: Node) -> Slopes:
    a, b = node.args
    half = make.div(d, make.number(2))
    sign = "lt" if node.data == "min" else "gt"
    tie = make.point("eq", a, b)
    first = make.choose(tie, half, make.choose(make.point(sign, a, b), d))
    return first, make.choose(tie, half, make.choose(make.point(sign, b, a), d))


def _abs(make: Maker, node: Node, d: Node) -> Slopes:
    x, zero = node.args[0], make.number(0)
    down = make.choose(make.point("lt", x, zero), make.point("neg", d))
    return (make.choose(make.point("gt", x, zero), d, down),)


def _relu(make: Maker, node: Node, d: Node) -> Slopes:
    return (make.choose(make.point("gt", node.args[0], make.number(0)), d),)


def _exp(make: Maker, node: Node, d: Node) -> Slopes:
    return (make.mul(d, node),)


def _log(make: Maker, node: Node, d: Node) -> Slopes:
    return (make.div(d, node.args[0]),)


def _sqrt(make: Maker, node: Node, d: Node) -> Slopes:
    return (make.div(d, make.mul(make.number(2), node)),)


def _tanh(make: Maker, node: Node, d: Node) -> Slopes:
    return (make.mul(d, make.sub(make.number(1), make.mul(node, node))),)


def _sin(make: Maker, node: Node, d: Node) -> Slopes:
    return (make.mul(d, make.point("cos", node.args[0])),)


def _cos(make: Maker, node: Node, d: Node) -> Slopes:
    return (make.point("neg", make.mul(d, make.point("sin", node.args[0]))),)


def _sigmoid(make: Maker, node: Node, d: Node) -> Slopes:
    return (make.mul(d, make.mul(node, make.sub(make.number(1), node))),)


def _silu(make: Maker, node: Node, d: Node) -> Slopes:
    x, one = node.args[0], make.number(1)
    s = make.point("sigmoid", x)
    return (make.mul(d, make.mul(s, make.add(one, make.mul(x, make.sub(one, s))))),)


def _gelu(make: Maker, node: Node, d: Node) -> Slopes:
    x, half = node.args[0], make.number(0.5)
    below = make.mul(half, make.add(make.number(1), make.point("erf", make.mul(x, make.number(math.sqrt(0.5))))))
    bell = make.point("exp", make.mul(make.number(-0.5), make.mul(x, x)))
    return (make.mul(d, make.add(below, make.mul(make.mul(x, bell), make.number(1 / math.sqrt(2 * math.pi))))),)


def _erf(make: Maker, node: Node, d: Node) -> Slopes:
    x = node.args[0]
    bell = make.point("exp", make.point("neg", make.mul(x, x)))
    return (make.mul(make.mul(d, bell), make.number(2 / math.sqrt(math.pi))),)


_RULES: dict[str, Callable[[Maker, Node, Node], Slopes]] = {
    "add": _add, "sub": _sub, "neg": _neg, "mul": _mul, "div": _div, "mod": _mod, "pow": _pow, "select": _select,
    "min": _extreme, "max": _extreme, "abs": _abs, "relu": _relu, "exp": _exp, "log": _log, "sqrt": _sqrt,
    "tanh": _tanh, "sin": _sin, "cos": _cos, "sigmoid": _sigmoid, "silu": _silu, "gelu": _gelu, "erf": _erf,
}  # fmt: skip
"""Comparisons, logic and ``floor`` have no slope, or the slope 0."""
