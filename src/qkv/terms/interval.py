"""The reader for bounds: what an expression's values can be over blocks of coordinates.

A block gives each coordinate a lowest and a highest value; the result bounds every value inside. For truth values (0,
0) means false everywhere, (1, 1) true everywhere, (0, 1) not known. Bounds are sound, not tight: an answer of "not
known" costs time, never a wrong number. They hold for graphs evaluated in float32 or float64, whatever its rounding,
and for values that are NaN. Many blocks are bounded at once: bounds are numpy arrays of float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .expr import Apply, Captured, Constant, Index, Kind, Lookup, Node, Position, Size, walk
from .ranges import RangeTable, learn

Array = NDArray[np.float64]
Truths = NDArray[np.bool_]
INFINITY = float("inf")

_STEP = 2.0**-22  # four roundings of float32, relative
_SMALLEST = 1e-37  # below it float32 may flush to zero
_LARGEST = 3e38  # beyond it float32 may overflow
_EXACT = 2.0**53  # whole numbers beyond may be rounded here, and may overflow in int64 after another product
_ROUNDED = frozenset(("add", "sub", "mul", "div", "floordiv", "mod", "pow", "sin", "cos", "erf"))
_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "log": np.log,
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
}
"""Increasing functions, which libraries compute to a few units of the last place only."""


def _never() -> Truths:
    return np.zeros((), dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class Interval:
    """The lowest and the highest value, inclusive, one pair for each block; the arrays broadcast.

    ``nan`` says where a value may also be NaN, which lies between no bounds.
    """

    low: Array
    high: Array
    nan: Truths = field(default_factory=_never)

    @staticmethod
    def of(low: float | Array, high: float | Array) -> Interval:
        """An interval from numbers or arrays."""
        return Interval(np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64))

    @property
    def infinite(self) -> Truths:
        """Where a value may be infinite or is not known."""
        return np.isinf(self.low) | np.isinf(self.high)

    @property
    def has_zero(self) -> Truths:
        """Where a value may be zero."""
        return (self.low <= 0) & (self.high >= 0)


@dataclass(slots=True)
class Block:
    """The blocks of one question: bounds of every coordinate's index and position, and the sizes.

    ``tables`` keeps what was learnt about captured tensors between questions; pass the same dict again to share it,
    as long as the tensors are not changed.
    """

    indices: Mapping[str, Interval]
    positions: Mapping[str, Interval]
    sizes: Mapping[str, int]
    tables: dict[Captured, RangeTable | None] = field(default_factory=dict[Captured, "RangeTable | None"])


def bounds(node: Node, block: Block) -> Interval:
    """Bounds of the node's values over each block."""
    return all_bounds(node, block)[id(node)]


def all_bounds(node: Node, block: Block) -> dict[int, Interval]:
    """Bounds of every node of the graph over each block, by the node's ``id``."""
    done: dict[int, Interval] = {}
    with np.errstate(all="ignore"):
        for current in walk(node):
            done[id(current)] = _bound(current, block, done)
    return done


def stays_inside(node: Node, block: Block) -> frozenset[Lookup]:
    """The lookups of the graph whose indices provably stay in their tables over the blocks."""
    done = all_bounds(node, block)
    found: set[Lookup] = set()
    for current in walk(node):
        if isinstance(current, Lookup):
            extents = current.table.extents(len(current.indices))
            pairs = zip((done[id(i)] for i in current.indices), extents, strict=True)
            if all(n is None or (bool(np.all(b.low >= 0)) and bool(np.all(b.high < n))) for b, n in pairs):
                found.add(current)
    return frozenset(found)


def _bound(node: Node, block: Block, done: dict[int, Interval]) -> Interval:
    match node:
        case Constant(value):
            if math.isnan(value):
                return _unknown()
            exact = Interval.of(float(value), float(value))
            return exact if node.kind is not Kind.FLOAT or float(np.float32(value)) == value else _rounded(exact)
        case Position(coordinate):
            return block.positions[coordinate]
        case Index(coordinate):
            return block.indices[coordinate]
        case Size(coordinate):
            return Interval.of(block.sizes[coordinate], block.sizes[coordinate])
        case Lookup():
            return _lookup(node, block, [done[id(i)] for i in node.indices])
        case Apply():
            return _sound(node, _apply(node, _operands(node, done)))
        case _:  # the score
            return Interval(np.asarray(-INFINITY), np.asarray(INFINITY), np.ones((), dtype=np.bool_))


def _operands(node: Apply, done: dict[int, Interval]) -> list[Interval]:
    """The operands' bounds; where one of them is a float, large whole numbers are rounded to floats with it."""
    found = [done[id(operand)] for operand in node.operands]
    if not any(operand.kind is Kind.FLOAT for operand in node.operands):
        return found
    return [_rounded(b) if o.kind is Kind.INT and _large(b) else b for o, b in zip(node.operands, found, strict=True)]


def _large(bound: Interval) -> bool:
    return bool(np.any(np.maximum(np.abs(bound.low), np.abs(bound.high)) > 2.0**24))


def _rounded(bound: Interval) -> Interval:
    """Wider by what float32 may round away, overflow and underflow included."""
    low = np.where(np.isfinite(bound.low), bound.low - np.abs(bound.low) * _STEP - _SMALLEST, bound.low)
    high = np.where(np.isfinite(bound.high), bound.high + np.abs(bound.high) * _STEP + _SMALLEST, bound.high)
    return Interval(np.where(low < -_LARGEST, -INFINITY, low), np.where(high > _LARGEST, INFINITY, high), bound.nan)


def _sound(node: Apply, result: Interval) -> Interval:
    """Unknown where a bound could not be computed, or lies where the kind's arithmetic is not that of numbers."""
    unknown = np.isnan(result.low) | np.isnan(result.high)
    if node.kind is Kind.BOOL:
        return Interval(np.where(unknown, 0.0, result.low), np.where(unknown, 1.0, result.high))
    if node.kind is Kind.INT:
        unknown = unknown | result.nan | (np.maximum(np.abs(result.low), np.abs(result.high)) >= _EXACT)
        return Interval(np.where(unknown, -INFINITY, result.low), np.where(unknown, INFINITY, result.high))
    low, high = np.where(unknown, -INFINITY, result.low), np.where(unknown, INFINITY, result.high)
    known = Interval(low, high, result.nan | unknown)
    return _rounded(known) if node.operation in _ROUNDED else known


def _apply(node: Apply, operands: list[Interval]) -> Interval:
    if node.operation in _TRUTHS or node.kind is Kind.BOOL:
        return _truth(node.operation, operands)
    if len(operands) == 1:
        return _unary(node.operation, operands[0])
    if node.operation == "select":
        return _select(*operands)
    a, b = operands
    nan = a.nan | b.nan
    match node.operation:
        case "add":
            opposite = (a.high == INFINITY) & (b.low == -INFINITY) | (a.low == -INFINITY) & (b.high == INFINITY)
            return Interval(a.low + b.low, a.high + b.high, nan | opposite)
        case "sub":
            alike = (a.high == INFINITY) & (b.high == INFINITY) | (a.low == -INFINITY) & (b.low == -INFINITY)
            return Interval(a.low - b.high, a.high - b.low, nan | alike)
        case "mul":
            products = [np.where(x == 0, 0.0, np.where(y == 0, 0.0, x * y)) for x in _ends(a) for y in _ends(b)]
            return _extremes(products, nan | a.has_zero & b.infinite | b.has_zero & a.infinite)
        case "div":
            quotient = _extremes([x / y for x in _ends(a) for y in _ends(b)], nan | a.infinite & b.infinite)
            return _where(b.has_zero, _unknown(), quotient)
        case "floordiv":
            quotient = _extremes([np.floor_divide(x, y) for x in _ends(a) for y in _ends(b)], nan | a.infinite)
            return _where(b.has_zero, _unknown(), quotient)
        case "mod":
            return _modulo(a, b, whole=node.kind is Kind.INT)
        case "min":
            return Interval(np.minimum(a.low, b.low), np.minimum(a.high, b.high), nan)
        case "max":
            return Interval(np.maximum(a.low, b.low), np.maximum(a.high, b.high), nan)
        case _:
            return _unknown()


_TRUTHS = frozenset(("lt", "le", "gt", "ge", "eq", "ne", "and", "or", "xor", "not"))


def _truth(operation: str, operands: list[Interval]) -> Interval:
    """Comparisons and logic: 1 where always true, 0 where never. A comparison with NaN is false, but for ``ne``."""
    a = operands[0]
    if operation == "not":
        return Interval(1.0 - a.high, 1.0 - a.low)
    if operation == "select":
        return _select(*operands)
    b = operands[1]
    ordered = ~(a.nan | b.nan)
    same = (a.low == a.high) & (b.low == b.high) & (a.low == b.low) & ordered
    apart = (a.high < b.low) | (a.low > b.high)
    match operation:
        case "lt":
            return _decided((a.high < b.low) & ordered, a.low >= b.high)
        case "le":
            return _decided((a.high <= b.low) & ordered, a.low > b.high)
        case "gt":
            return _decided((a.low > b.high) & ordered, a.high <= b.low)
        case "ge":
            return _decided((a.low >= b.high) & ordered, a.high < b.low)
        case "eq":
            return _decided(same, apart)
        case "ne":
            return _decided(apart, same)
        case "and":
            return Interval(np.minimum(a.low, b.low), np.minimum(a.high, b.high))
        case "or":
            return Interval(np.maximum(a.low, b.low), np.maximum(a.high, b.high))
        case _:
            known = (a.low == a.high) & (b.low == b.high)
            return _decided(known & (a.low != b.low), known & (a.low == b.low))


def _unary(operation: str, a: Interval) -> Interval:
    match operation:
        case "neg":
            return Interval(-a.high, -a.low, a.nan)
        case "abs":
            low, high = np.abs(a.low), np.abs(a.high)
            return Interval(np.where(a.has_zero, 0.0, np.minimum(low, high)), np.maximum(low, high), a.nan)
        case "float":
            return Interval(a.low, a.high, a.nan)
        case "floor":  # the floor of an infinity has no whole number: any may come out
            return Interval(np.floor(a.low), np.floor(a.high), a.nan | a.infinite)
        case "sin" | "cos":
            return Interval(np.full_like(a.low, -1.0), np.full_like(a.high, 1.0), a.nan | a.infinite)
        case "erf":
            return Interval(np.full_like(a.low, -1.0), np.full_like(a.high, 1.0), a.nan)
        case _:
            function = _FUNCTIONS[operation]
            low, high = function(a.low), function(a.high)
            nan = a.nan | (a.low < 0) if operation in ("log", "sqrt") else a.nan
            return Interval(_beside(low, -1.0), _beside(high, 1.0), nan)


def _beside(bound: Array, direction: float) -> Array:
    """Room for the libraries' own rounding; absolute, too, as a logarithm near 1 is small and its error is not."""
    return np.where(np.isfinite(bound), bound + direction * (1e-5 * np.abs(bound) + 1e-6), bound)


def _select(test: Interval, chosen: Interval, other: Interval) -> Interval:
    either = Interval(np.minimum(chosen.low, other.low), np.maximum(chosen.high, other.high), chosen.nan | other.nan)
    return _where(test.low == 1, chosen, _where(test.high == 0, other, either))


def _modulo(a: Interval, b: Interval, *, whole: bool) -> Interval:
    """Remainders by positive numbers; by one number, exact while the block stays within one period."""
    known = (b.low == b.high) & (b.low > 0)
    divisor = np.where(known, b.low, 1.0)
    one_period = known & (np.floor_divide(a.low, divisor) == np.floor_divide(a.high, divisor)) & ~a.infinite
    low = np.where(one_period, a.low - divisor * np.floor_divide(a.low, divisor), 0.0)
    high = np.where(one_period, a.high - divisor * np.floor_divide(a.high, divisor), b.high - 1 if whole else b.high)
    return _where(b.low > 0, Interval(low, high, a.nan | b.nan | a.infinite), _unknown())


def _ends(a: Interval) -> tuple[Array, Array]:
    return a.low, a.high


def _unknown() -> Interval:
    return Interval(np.asarray(-INFINITY), np.asarray(INFINITY), np.ones((), dtype=np.bool_))


def _where(test: Truths, a: Interval, b: Interval) -> Interval:
    return Interval(np.where(test, a.low, b.low), np.where(test, a.high, b.high), np.where(test, a.nan, b.nan))


def _decided(always: Truths, never: Truths) -> Interval:
    return Interval(np.where(always, 1.0, 0.0), np.where(never, 0.0, 1.0))


def _extremes(values: list[Array], nan: Truths) -> Interval:
    stacked = np.stack(np.broadcast_arrays(*values))
    return Interval(stacked.min(axis=0), stacked.max(axis=0), nan)


def _lookup(node: Lookup, block: Block, indices: list[Interval]) -> Interval:
    """Bounds of a table's values over the stretch that the indices can reach; unknown where nothing can be learnt."""
    if node.table not in block.tables:
        block.tables[node.table] = learn(node.table)
    known = block.tables[node.table]
    if known is None:
        return Interval.of(0.0, 1.0) if node.kind is Kind.BOOL else _unknown()
    found = Interval(*known.query([i.low for i in indices], [i.high for i in indices]))
    narrowed = node.kind is Kind.FLOAT and node.table.tensor.dtype.itemsize > 4
    return _rounded(found) if narrowed else found
