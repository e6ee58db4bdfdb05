"""Counting the pairs that a keep graph keeps, exactly, without looking at each of them.

Blocks of queries and keys are bounded first: one that keeps all or nothing is counted by its area. In the others the
parts of the graph that the block decides are replaced by constants; what is left often depends on one coordinate, or
on the difference of both, and is then counted along one axis. Only blocks that resist are split, and small ones
evaluated. This module refuses to know which mask it counts and never holds more than ``_CHUNK`` pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import CoordinateError, SpecError
from .expr import (
    Apply,
    Captured,
    Constant,
    Index,
    Kind,
    Lookup,
    Node,
    Position,
    Size,
    apply,
    coordinates_read,
    substitute,
    walk,
)
from .interval import Block, Interval, RangeTable, all_bounds
from .values import Environment, evaluate

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 1 << 21  # pairs evaluated at once; about 16 MB for each whole-number node of the graph
_BATCH = 4096  # blocks bounded at once
_LEAF = 64  # blocks of this side are evaluated pair by pair
_SPLIT = 4  # a block that resists becomes 4 x 4 blocks
_RESIDUES = 64  # more different remainders than this in one batch are not worth telling apart

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Squares of one nominal side; ``rows`` and ``columns`` say how much of each lies inside the matrix."""

    query: Integers
    key: Integers
    rows: Integers
    columns: Integers
    side: int

    def pick(self, which: NDArray[np.bool_] | slice) -> _Blocks:
        return _Blocks(self.query[which], self.key[which], self.rows[which], self.columns[which], self.side)

    def parts(self, size: int) -> Iterator[_Blocks]:
        for start in range(0, len(self.query), max(size, 1)):
            yield self.pick(slice(start, start + max(size, 1)))


def count(
    node: Node,
    *,
    query: str,
    key: str,
    num_queries: int,
    num_keys: int,
    offset: int = 0,
    at: Mapping[str, int] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> int:
    """Return how many of ``num_queries * num_keys`` pairs the bool graph ``node`` keeps.

    Query i stands at position i + ``offset``, key j at position j; ``at`` fixes every other coordinate that the graph
    reads, and ``sizes`` says how many elements such a coordinate has, where the graph asks. Empty axes give 0. Raises
    ``CoordinateError`` for a coordinate that nothing fixes, ``SpecError`` for negative sizes.

    >>> from qkv.terms.expr import Position, apply
    >>> count(apply("le", Position("j"), Position("i")), query="i", key="j", num_queries=4, num_keys=4)
    10
    """
    if num_queries < 0 or num_keys < 0:
        raise SpecError(f"count of {num_queries} queries and {num_keys} keys.\n  Both are at least 0.")
    known = {**(sizes or {}), query: num_queries, key: num_keys}
    plain = _fixed(node, query, key, offset, at or {}, known)
    if num_queries == 0 or num_keys == 0:
        return 0
    return _Counter(plain, query, key, num_queries, num_keys, offset).total()


def _fixed(node: Node, query: str, key: str, offset: int, at: Mapping[str, int], sizes: Mapping[str, int]) -> Node:
    """The graph over the positions of ``query`` and ``key`` alone."""
    replacements: dict[Node, Node] = {
        Index(query): apply("sub", Position(query), Constant(offset)),
        Index(key): Position(key),
    }
    for coordinate in coordinates_read(node) - {query, key}:
        if coordinate in at:
            replacements[Position(coordinate)] = replacements[Index(coordinate)] = Constant(int(at[coordinate]))
    replacements |= {Size(coordinate): Constant(size) for coordinate, size in sizes.items()}
    plain = substitute(node, replacements)
    missing = sorted(coordinates_read(plain) - {query, key})
    if missing:
        sized = any(isinstance(n, Size) and n.coordinate == missing[0] for n in walk(plain))
        advice = f'sizes={{"{missing[0]}": 8}}' if sized else f'at={{"{missing[0]}": 0}}'
        raise CoordinateError(
            f'the mask also depends on "{missing[0]}", and one matrix of "{query}" by "{key}" is counted.\n'
            f"  Say where: {advice}."
        )
    return plain


class _Counter:
    """One count: the graph, the axes, and what was learnt about its tables."""

    def __init__(self, node: Node, query: str, key: str, num_queries: int, num_keys: int, offset: int) -> None:
        self.node = node
        self.query, self.key = query, key
        self.num_queries, self.num_keys, self.offset = num_queries, num_keys, offset
        self.tables: dict[Captured, RangeTable | None] = {}

    def total(self) -> int:
        """Depth first over batches of blocks, so that few of them wait at any time."""
        side = _LEAF
        while side < max(self.num_queries, self.num_keys):
            side *= _SPLIT
        zero = np.zeros(1, dtype=np.int64)
        waiting = [self.clipped(zero, zero, side)]
        found = 0
        while waiting:
            blocks = waiting.pop()
            for residue, members in self.residues(blocks):
                along = self.one_axis(residue)
                if isinstance(residue, Constant):
                    found += int((members.rows * members.columns).sum()) if residue.value else 0
                elif along is not None and members.side <= _CHUNK // 2:
                    found += sum(along(residue, part) for part in members.parts(_CHUNK // (2 * members.side)))
                elif members.side <= _LEAF:
                    found += sum(self.pairs(residue, part) for part in members.parts(_CHUNK // members.side**2))
                else:
                    waiting.extend(self.split(members).parts(_BATCH))
        return found

    def clipped(self, query: Integers, key: Integers, side: int) -> _Blocks:
        """Blocks from their first query and key, those outside the matrix left out."""
        rows = np.clip(self.num_queries - query, 0, side)
        columns = np.clip(self.num_keys - key, 0, side)
        return _Blocks(query, key, rows, columns, side).pick((rows > 0) & (columns > 0))

    def split(self, blocks: _Blocks) -> _Blocks:
        side = blocks.side // _SPLIT
        steps = np.arange(_SPLIT, dtype=np.int64) * side
        shape = (len(blocks.query), _SPLIT, _SPLIT)
        query = np.broadcast_to(blocks.query[:, None, None] + steps[:, None], shape).reshape(-1)
        key = np.broadcast_to(blocks.key[:, None, None] + steps, shape).reshape(-1)
        return self.clipped(query, key, side)

    def residues(self, blocks: _Blocks) -> Iterator[tuple[Node, _Blocks]]:
        """What is left of the graph in each block once the truth values that the block decides are put in."""
        first = blocks.query + self.offset
        positions = {
            self.query: Interval.of(first.astype(float), (first + blocks.rows - 1).astype(float)),
            self.key: Interval.of(blocks.key.astype(float), (blocks.key + blocks.columns - 1).astype(float)),
        }
        bounds = all_bounds(self.node, Block(positions, positions, {}, self.tables))
        truths = [n for n in walk(self.node) if n.kind is Kind.BOOL and not isinstance(n, Constant)]
        shape = blocks.query.shape
        states = [
            np.broadcast_to(bounds[id(n)].low + bounds[id(n)].high, shape) for n in truths
        ]  # 0 never, 1 unknown, 2 always
        table = np.stack(states) if states else np.zeros((1, *shape))
        kinds, member = np.unique(table, axis=1, return_inverse=True)
        if kinds.shape[1] > _RESIDUES:
            table = table[-1:] if states else table  # the root alone
            truths = truths[-1:]
            kinds, member = np.unique(table, axis=1, return_inverse=True)
        for number in range(kinds.shape[1]):
            decided = {id(n): Constant(bool(s == 2)) for n, s in zip(truths, kinds[:, number], strict=False) if s != 1}
            yield _put_in(self.node, decided), blocks.pick(member.reshape(-1) == number)

    def one_axis(self, node: Node) -> Callable[[Node, _Blocks], int] | None:
        """How to count along one axis, where the graph depends on one coordinate or on the difference only."""
        read = coordinates_read(node)
        if self.query not in read:
            return self.columns_alone
        if self.key not in read:
            return self.rows_alone
        return self.differences if _shift(node) == 0 else None

    def columns_alone(self, node: Node, blocks: _Blocks) -> int:
        """The graph reads the key only: kept keys times rows."""
        step = np.arange(blocks.side, dtype=np.int64)
        key = np.minimum(blocks.key[:, None] + step, self.num_keys - 1)
        kept = self.values(node, blocks.query[:, None] + self.offset, key)
        kept &= step < blocks.columns[:, None]
        return int((kept.sum(axis=1) * blocks.rows).sum())

    def rows_alone(self, node: Node, blocks: _Blocks) -> int:
        """The graph reads the query only: kept rows times keys."""
        step = np.arange(blocks.side, dtype=np.int64)
        query = np.minimum(blocks.query[:, None] + step, self.num_queries - 1)
        kept = self.values(node, query + self.offset, blocks.key[:, None])
        kept &= step < blocks.rows[:, None]
        return int((kept.sum(axis=1) * blocks.columns).sum())

    def differences(self, node: Node, blocks: _Blocks) -> int:
        """The graph reads the difference only: each diagonal's value times its length within the block."""
        rows, columns = blocks.rows[:, None], blocks.columns[:, None]
        step = np.arange(2 * blocks.side - 1, dtype=np.int64)  # from the upper right corner to the left, then down
        across = np.clip(columns - 1 - step, 0, None)
        down = np.clip(step - (columns - 1), 0, None)
        inside = down < rows
        kept = self.values(
            node, blocks.query[:, None] + np.minimum(down, rows - 1) + self.offset, blocks.key[:, None] + across
        )
        length = np.minimum(rows - down, columns - across)
        return int(np.where(kept & inside, length, 0).sum())

    def pairs(self, node: Node, blocks: _Blocks) -> int:
        """Every pair of the blocks."""
        step = np.arange(blocks.side, dtype=np.int64)
        query = np.minimum(blocks.query[:, None] + step, self.num_queries - 1) + self.offset
        key = np.minimum(blocks.key[:, None] + step, self.num_keys - 1)
        kept = self.values(node, query[:, :, None], key[:, None, :])
        inside = (step[:, None] < blocks.rows[:, None, None]) & (step < blocks.columns[:, None, None])
        return int((kept & inside).sum())

    def values(self, node: Node, query: Integers, key: Integers) -> NDArray[np.bool_]:
        """The graph's values, broadcast over both positions."""
        import torch

        places = {
            self.query: torch.as_tensor(np.ascontiguousarray(query)),
            self.key: torch.as_tensor(np.ascontiguousarray(key)),
        }
        tables = {n.table: n.table.tensor.detach().cpu() for n in walk(node) if isinstance(n, Lookup)}
        environment = Environment(places, places, {}, torch.float64, torch.device("cpu"), tables=tables)
        result: Tensor = evaluate(node, environment)
        return result.broadcast_to(np.broadcast_shapes(query.shape, key.shape)).numpy().copy()


def _put_in(node: Node, decided: Mapping[int, Constant]) -> Node:
    """The graph with the nodes of these identities exchanged for constants."""
    made: dict[int, Node] = {}
    for current in walk(node):
        if id(current) in decided:
            made[id(current)] = decided[id(current)]
        elif isinstance(current, Apply):
            made[id(current)] = apply(current.operation, *(made[id(c)] for c in current.operands))
        elif isinstance(current, Lookup):
            made[id(current)] = Lookup(current.table, tuple(made[id(c)] for c in current.indices))
        else:
            made[id(current)] = current
    return made[id(node)]


def _shift(node: Node) -> int | None:
    """By how much the value grows when both positions grow by one; None when that is not the same everywhere."""
    done: dict[int, int | None] = {}
    for current in walk(node):
        if isinstance(current, Position):
            done[id(current)] = 1
        elif isinstance(current, Lookup):
            done[id(current)] = 0 if all(done[id(i)] == 0 for i in current.indices) else None
        elif isinstance(current, Apply):
            done[id(current)] = _shift_of(current, [done[id(o)] for o in current.operands])
        else:
            done[id(current)] = 0
    return done[id(node)]


def _shift_of(node: Apply, shifts: list[int | None]) -> int | None:
    if any(shift is None for shift in shifts):
        return None
    grown = [shift for shift in shifts if shift is not None]
    if not any(grown):
        return 0
    whole = all(operand.kind is not Kind.FLOAT for operand in node.operands)  # sums of floats are rounded
    match node.operation:
        case "add" if whole:
            return grown[0] + grown[1]
        case "sub" if whole:
            return grown[0] - grown[1]
        case "neg" if whole:
            return -grown[0]
        case "mul" if whole:
            for number, shift in ((node.operands[0], grown[1]), (node.operands[1], grown[0])):
                if isinstance(number, Constant):
                    return int(number.value) * shift
            return None
        case "lt" | "le" | "eq" | "ne" | "gt" | "ge" if whole and grown[0] == grown[1]:
            return 0
        case "min" | "max" if whole and grown[0] == grown[1]:
            return grown[0]
        case "select" if whole and grown[0] == 0 and grown[1] == grown[2]:
            return grown[1]
        case _:
            return None
