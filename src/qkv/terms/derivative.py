"""The reader for derivatives: d(expression)/d(leaf) as another expression, by rule.

The leaf is the score so far or one lookup in a captured tensor. Comparisons, rounding and whole numbers have derivative
0; ``abs`` has 0 at 0, ``min`` and ``max`` the mean of both sides at a tie, as torch's have. The result is an ordinary
graph, read by the other readers; where a branch of ``where`` is not taken, its derivative is not either, be it NaN.
"""

from __future__ import annotations

import math

from .expr import Apply, Captured, Constant, Kind, Lookup, Node, Score, apply, children, walk

ZERO = Constant(0.0)
ONE = Constant(1.0)
HALF = Constant(0.5)


def derivative(node: Node, leaf: Score | Lookup) -> Node:
    """The derivative of ``node`` with respect to ``leaf``, a float graph; the constant 0.0 where it does not depend
    on it.

    >>> from qkv.terms.expr import Constant, Score, apply, describe
    >>> describe(derivative(apply("mul", Score(), Constant(3.0)), Score()))
    '3'
    """
    done: dict[int, Node] = {}
    for current in walk(node):
        if current == leaf:
            done[id(current)] = ONE
        elif isinstance(current, Apply) and current.kind is Kind.FLOAT:
            done[id(current)] = _chain(current, [done[id(o)] for o in current.operands])
        else:
            done[id(current)] = ZERO
    result = done[id(node)]
    return result if result.kind is Kind.FLOAT else apply("float", result)


def lookups_of(node: Node, table: Captured) -> tuple[Lookup, ...]:
    """The distinct lookups of the graph in one captured tensor; its gradient sums the contributions of all of them."""
    return tuple(dict.fromkeys(n for n in walk(node) if isinstance(n, Lookup) and n.table == table))


def is_zero(node: Node) -> bool:
    """Whether the graph is the constant zero."""
    return isinstance(node, Constant) and node.value == 0


def depends_on(node: Node, leaf: Node) -> bool:
    """Whether ``leaf`` occurs in the graph."""
    return node == leaf or any(depends_on(child, leaf) for child in children(node))


def _add(a: Node, b: Node) -> Node:
    if is_zero(a):
        return b
    return a if is_zero(b) else apply("add", a, b)


def _mul(a: Node, b: Node) -> Node:
    """A product of derivative factors: exactly 0 means "does not depend", so that 0 times infinity is 0 here."""
    if is_zero(a) or is_zero(b):
        return ZERO
    if a == ONE:
        return b
    return a if b == ONE else apply("mul", a, b)


def _div(a: Node, b: Node) -> Node:
    return ZERO if is_zero(a) else apply("div", a, b)


def _neg(a: Node) -> Node:
    return ZERO if is_zero(a) else apply("neg", a)


def _select(test: Node, a: Node, b: Node) -> Node:
    return a if a == b else apply("select", test, a, b)


def _chain(node: Apply, inner: list[Node]) -> Node:
    """The chain rule for one operation; ``inner`` holds the operands' derivatives."""
    if all(is_zero(d) for d in inner):
        return ZERO
    x = node.operands[0]
    dx = inner[0]
    y, dy = (node.operands[1], inner[1]) if len(inner) > 1 else (x, ZERO)
    match node.operation:
        case "add":
            return _add(dx, dy)
        case "sub":
            return _add(dx, _neg(dy))
        case "mul":
            return _add(_mul(dx, y), _mul(x, dy))
        case "div":
            return _add(_div(dx, y), _neg(_div(_mul(dy, x), apply("mul", y, y))))
        case "pow":
            return _power(node, x, y, dx, dy)
        case "neg":
            return _neg(dx)
        case "abs":
            return _mul(
                _select(apply("lt", x, Constant(0)), Constant(-1.0), _select(apply("gt", x, Constant(0)), ONE, ZERO)),
                dx,
            )
        case "min" | "max":
            first = apply("lt" if node.operation == "min" else "gt", x, y)
            return _select(first, dx, _select(apply("eq", x, y), _mul(HALF, _add(dx, dy)), dy))
        case "mod":
            return _add(dx, _neg(_mul(dy, apply("floor", apply("div", x, y)))))
        case "select":
            return _select(x, inner[1], inner[2])
        case _:
            return _mul(_slope(node, x), dx)


def _power(node: Apply, x: Node, y: Node, dx: Node, dy: Node) -> Node:
    """By the base and by the exponent; both are 0 where the formula's 0 times infinity would be NaN."""
    base = ZERO
    if not is_zero(dx) and not is_zero(y):
        slope = apply("mul", y, apply("pow", x, apply("sub", y, Constant(1))))
        base = _mul(slope if isinstance(y, Constant) else _select(apply("eq", y, Constant(0)), ZERO, slope), dx)
    if is_zero(dy):
        return base
    flat = apply("and", apply("eq", x, Constant(0)), apply("ge", y, Constant(0)))
    return _add(base, _mul(_select(flat, ZERO, apply("mul", node, apply("log", x))), dy))


def _slope(node: Apply, x: Node) -> Node:
    """The derivative of a function of one argument at its argument."""
    match node.operation:
        case "exp":
            return node
        case "log":
            return apply("div", ONE, x)
        case "sqrt":
            return apply("div", Constant(0.5), node)
        case "tanh":
            return apply("sub", ONE, apply("mul", node, node))
        case "sigmoid":
            return apply("mul", node, apply("sub", ONE, node))
        case "erf":
            return apply("mul", Constant(2.0 / math.sqrt(math.pi)), apply("exp", apply("neg", apply("mul", x, x))))
        case "sin":
            return apply("cos", x)
        case "cos":
            return apply("neg", apply("sin", x))
        case "float":
            return ONE
        case _:  # floor: flat between its steps
            return ZERO
