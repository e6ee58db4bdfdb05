"""The reader for bounds: what an expression's values can be over blocks of coordinates.

A block gives each coordinate a lowest and a highest value; the result bounds every value inside. For truth values (0, 0) means false everywhere, (1, 1) true everywhere, (0, 1)
not known. Bounds are sound, not tight: an answer of "not known" costs time, never a wrong number. Many blocks are bounded at once: bounds are numpy arrays of float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .. import limits
from .expr import Apply, Captured, Constant, Index, Kind, Lookup, Node, Position, Score, Size, walk

Array = NDArray[np.float64]
INFINITY = float("inf")


@dataclass(frozen=True, slots=True)
class Interval:
    """The lowest and the highest value, inclusive, one pair for each block; the arrays broadcast."""

    low: Array
    high: Array

    @staticmethod
    def of(low: float | Array, high: float | Array) -> Interval:
        """An interval from numbers or arrays."""
        return Interval(np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64))


@dataclass(slots=True)
class Block:
    """The blocks of one question: bounds of every coordinate's index and position, and the sizes.

    ``tables`` keeps what was learnt about captured tensors between questions; pass the same dict again to share it.
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
            pairs = zip((done[id(i)] for i in current.indices), current.table.tensor.shape, strict=True)
            if all(bool(np.all(b.low >= 0)) and bool(np.all(b.high < size)) for b, size in pairs):
                found.add(current)
    return frozenset(found)


def _bound(node: Node, block: Block, done: dict[int, Interval]) -> Interval:
    match node:
        case Constant(value):
            return Interval.of(float(value), float(value))
        case Position(coordinate):
            return block.positions[coordinate]
        case Index(coordinate):
            return block.indices[coordinate]
        case Size(coordinate):
            return Interval.of(block.sizes[coordinate], block.sizes[coordinate])
        case Score():
            return Interval.of(-INFINITY, INFINITY)
        case Lookup():
            return _lookup(node, block, [done[id(i)] for i in node.indices])
        case Apply():
            result = _apply(node, [done[id(o)] for o in node.operands])
            unknown = np.isnan(result.low) | np.isnan(result.high)
            if node.kind is Kind.BOOL:
                return Interval(np.where(unknown, 0.0, result.low), np.where(unknown, 1.0, result.high))
            return Interval(np.where(unknown, -INFINITY, result.low), np.where(unknown, INFINITY, result.high))


_MONOTONE = {
    "exp": np.exp, "sqrt": np.sqrt, "tanh": np.tanh, "floor": np.floor, "float": lambda x: x, "log": np.log,
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
}  # fmt: skip
_ROUNDED = ("exp", "sqrt", "tanh", "log", "sigmoid")


def _apply(node: Apply, operands: list[Interval]) -> Interval:
    a = operands[0]
    b = operands[1] if len(operands) > 1 else a
    match node.operation:
        case "add":
            return Interval(a.low + b.low, a.high + b.high)
        case "sub":
            return Interval(a.low - b.high, a.high - b.low)
        case "mul":
            return _extremes([x * y for x in (a.low, a.high) for y in (b.low, b.high)], zero_times_infinity=True)
        case "div" | "floordiv":
            return _quotient(node.operation, a, b)
        case "mod":
            return _modulo(a, b)
        case "neg":
            return Interval(-a.high, -a.low)
        case "abs":
            crosses = (a.low <= 0) & (a.high >= 0)
            return Interval(
                np.where(crosses, 0.0, np.minimum(np.abs(a.low), np.abs(a.high))),
                np.maximum(np.abs(a.low), np.abs(a.high)),
            )
        case "min":
            return Interval(np.minimum(a.low, b.low), np.minimum(a.high, b.high))
        case "max":
            return Interval(np.maximum(a.low, b.low), np.maximum(a.high, b.high))
        case "lt":
            return _truth(a.high < b.low, a.low >= b.high)
        case "le":
            return _truth(a.high <= b.low, a.low > b.high)
        case "gt":
            return _truth(a.low > b.high, a.high <= b.low)
        case "ge":
            return _truth(a.low >= b.high, a.high < b.low)
        case "eq" | "ne":
            same = (a.low == a.high) & (b.low == b.high) & (a.low == b.low)
            apart = (a.high < b.low) | (a.low > b.high)
            return _truth(same, apart) if node.operation == "eq" else _truth(apart, same)
        case "and":
            return Interval(np.minimum(a.low, b.low), np.minimum(a.high, b.high))
        case "or":
            return Interval(np.maximum(a.low, b.low), np.maximum(a.high, b.high))
        case "xor":
            known = (a.low == a.high) & (b.low == b.high)
            differs = a.low != b.low
            return _truth(known & differs, known & ~differs)
        case "not":
            return Interval(1.0 - a.high, 1.0 - a.low)
        case "select":
            chosen, other = operands[1], operands[2]
            low = np.where(a.low == 1, chosen.low, np.where(a.high == 0, other.low, np.minimum(chosen.low, other.low)))
            high = np.where(
                a.low == 1, chosen.high, np.where(a.high == 0, other.high, np.maximum(chosen.high, other.high))
            )
            return Interval(low, high)
        case name if name in _MONOTONE:
            low, high = _MONOTONE[name](a.low), _MONOTONE[name](a.high)
            if (
                name in _ROUNDED
            ):  # the kernel rounds in its own way; leave room for a few units in the last place of float32
                low, high = low - 1e-5 * np.abs(low) - 1e-30, high + 1e-5 * np.abs(high) + 1e-30
            return Interval(low, high)
        case "sin" | "cos" | "erf":
            return Interval(np.full_like(a.low, -1.0), np.full_like(a.high, 1.0))
        case _:
            return Interval(np.full_like(a.low, -INFINITY), np.full_like(a.high, INFINITY))


def _truth(always: NDArray[np.bool_], never: NDArray[np.bool_]) -> Interval:
    return Interval(np.where(always, 1.0, 0.0), np.where(never, 0.0, 1.0))


def _extremes(values: list[Array], *, zero_times_infinity: bool = False) -> Interval:
    stacked = np.stack(np.broadcast_arrays(*values))
    if zero_times_infinity:
        stacked = np.where(np.isnan(stacked), 0.0, stacked)
    return Interval(stacked.min(axis=0), stacked.max(axis=0))


def _quotient(operation: str, a: Interval, b: Interval) -> Interval:
    crosses = (b.low <= 0) & (b.high >= 0)
    result = _extremes([x / y for x in (a.low, a.high) for y in (b.low, b.high)])
    low, high = np.where(crosses, np.nan, result.low), np.where(crosses, np.nan, result.high)
    return Interval(np.floor(low), np.floor(high)) if operation == "floordiv" else Interval(low, high)


def _modulo(a: Interval, b: Interval) -> Interval:
    """Remainders by one positive number: exact while the block stays within one period, else the whole period."""
    known = (b.low == b.high) & (b.low > 0)
    divisor = np.where(known, b.low, 1.0)
    one_period = np.floor(a.low / divisor) == np.floor(a.high / divisor)
    low = np.where(one_period, a.low - divisor * np.floor(a.low / divisor), 0.0)
    high = np.where(one_period, a.high - divisor * np.floor(a.high / divisor), divisor)
    return Interval(np.where(known, low, np.nan), np.where(known, high, np.nan))


class RangeTable:
    """Lowest and highest value of any stretch of a captured tensor along one axis, the other axes taken as a whole."""

    def __init__(self, values: Array, axis: int) -> None:
        self.axis = axis
        others = tuple(n for n in range(values.ndim) if n != axis)
        lows, highs = [values.min(axis=others)], [values.max(axis=others)]
        step = 1
        while 2 * step <= lows[0].shape[0]:
            lows.append(np.minimum(lows[-1][:-step], lows[-1][step:]))
            highs.append(np.maximum(highs[-1][:-step], highs[-1][step:]))
            step *= 2
        width = lows[0].shape[0]
        self.low = np.stack([np.pad(x, (0, width - x.shape[0]), constant_values=INFINITY) for x in lows])
        self.high = np.stack([np.pad(x, (0, width - x.shape[0]), constant_values=-INFINITY) for x in highs])

    def query(self, low: Array, high: Array) -> Interval:
        """Bounds over the stretch from ``low`` to ``high``, inclusive, clamped to the table."""
        first = np.clip(low, 0, self.low.shape[1] - 1).astype(np.int64)
        last = np.clip(high, 0, self.low.shape[1] - 1).astype(np.int64)
        level = np.floor(np.log2(np.maximum(last - first + 1, 1))).astype(np.int64)
        second = last - (1 << level) + 1
        return Interval(
            np.minimum(self.low[level, first], self.low[level, second]),
            np.maximum(self.high[level, first], self.high[level, second]),
        )


def _lookup(node: Lookup, block: Block, indices: list[Interval]) -> Interval:
    """Bounds of a table's values over the stretch that the longest-axis index can reach; unknown for large or distant tables."""
    unknown = Interval.of(0.0, 1.0) if node.kind is Kind.BOOL else Interval.of(-INFINITY, INFINITY)
    if node.table not in block.tables:
        block.tables[node.table] = _learn(node)
    known = block.tables[node.table]
    if known is None:
        return unknown
    if not indices:
        return known.query(np.zeros(()), np.zeros(()))
    return known.query(indices[known.axis].low, indices[known.axis].high)


def _learn(node: Lookup) -> RangeTable | None:
    tensor = node.table.tensor
    if tensor.device.type != "cpu" or tensor.numel() == 0 or tensor.numel() > limits.BOUNDED_TABLE_ELEMENTS:
        return None
    values = tensor.detach().double().numpy() if tensor.dim() else tensor.detach().double().reshape(1).numpy()
    if np.isnan(values).any():
        return None
    return RangeTable(values, int(np.argmax(values.shape)))
