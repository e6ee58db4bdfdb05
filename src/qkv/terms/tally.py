"""Kept pairs by blocks: bounds decide most of them, what is left of the graph decides how the others are counted.

Knows one graph over two positions. Refuses to know the coordinates that a caller fixed before, and never
holds more than ``_CHUNK`` values of any node at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .expr import Captured, Constant, Kind, Lookup, Node, coordinates_read, walk
from .interval import Block, Interval, RangeTable, all_bounds
from .residue import put_in, shift
from .values import Environment, evaluate

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 1 << 21  # pairs evaluated at once; about 16 MB for each whole-number node of the graph
_BATCH = 4096  # blocks bounded at once
_COARSE = 16  # cells are first bounded 16 x 16 together
_LEAF = 64  # blocks of this side are evaluated pair by pair
_SPLIT = 4  # a block that resists becomes 4 x 4 blocks
_RESIDUES = 64  # more different remainders than this in one batch are not worth telling apart

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Squares of one nominal side; ``rows`` and ``columns`` say how much of each counts, ``owner`` for which cell."""

    query: Integers
    key: Integers
    rows: Integers
    columns: Integers
    owner: Integers
    side: int

    def pick(self, which: NDArray[np.bool_] | slice) -> _Blocks:
        parts = (self.query[which], self.key[which], self.rows[which], self.columns[which], self.owner[which])
        return _Blocks(*parts, self.side)

    def parts(self, size: int) -> Iterator[_Blocks]:
        for start in range(0, len(self.query), max(size, 1)):
            yield self.pick(slice(start, start + max(size, 1)))

    def split(self) -> _Blocks:
        side = self.side // _SPLIT
        steps = np.arange(_SPLIT, dtype=np.int64) * side
        shape = (len(self.query), _SPLIT, _SPLIT)

        def spread(values: Integers, step: Integers) -> Integers:
            return np.broadcast_to(values[:, None, None] + step, shape).reshape(-1)

        query, key = spread(self.query, steps[:, None]), spread(self.key, steps)
        rows = np.clip(spread(self.rows, -steps[:, None]), 0, side)
        columns = np.clip(spread(self.columns, -steps), 0, side)
        made = _Blocks(query, key, rows, columns, spread(self.owner, np.zeros_like(steps)), side)
        return made.pick((rows > 0) & (columns > 0))


class Tally:
    """One count: the graph, the names of its axes, and what was learnt about its tables."""

    def __init__(self, node: Node, query: str, key: str, offset: int) -> None:
        self.node = node
        self.query, self.key, self.offset = query, key, offset
        self.tables: dict[Captured, RangeTable | None] = {}
        self.cpu_tables = {n.table: n.table.tensor.detach().cpu() for n in walk(node) if isinstance(n, Lookup)}

    def cells(self, num_queries: int, num_keys: int, cell: tuple[int, int]) -> Integers:
        """Depth first over batches of blocks, so that few of them wait at any time."""
        side = _LEAF
        while side < max(cell):
            side *= _SPLIT
        starts_q, starts_k = np.arange(0, num_queries, cell[0]), np.arange(0, num_keys, cell[1])
        query, key = (x.reshape(-1) for x in np.meshgrid(starts_q, starts_k, indexing="ij"))
        rows, columns = np.minimum(num_queries - query, cell[0]), np.minimum(num_keys - key, cell[1])
        blocks = _Blocks(query, key, rows, columns, np.arange(len(query)), side)
        state = self.coarse(num_queries, num_keys, (cell[0] * _COARSE, cell[1] * _COARSE))
        state = state.repeat(_COARSE, axis=0).repeat(_COARSE, axis=1)[: len(starts_q), : len(starts_k)].reshape(-1)
        found = np.where(state == 2, rows * columns, 0)
        waiting = list(blocks.pick(state == 1).parts(_BATCH))
        while waiting:
            for residue, members in self.residues(waiting.pop()):
                method, size = self.method(residue, members.side)
                if method is None:
                    waiting.extend(members.split().parts(_BATCH))
                else:
                    for part in members.parts(_CHUNK // size):
                        np.add.at(found, part.owner, method(residue, part))
        return found.reshape(len(starts_q), len(starts_k))

    def coarse(self, num_queries: int, num_keys: int, cell: tuple[int, int]) -> Integers:
        """What bounds say of large cells: 0 nothing kept, 2 everything, 1 not known."""
        first_q, first_k = (np.arange(0, n, c)[:, None] for n, c in zip((num_queries, num_keys), cell, strict=True))
        last_q, last_k = np.minimum(first_q + cell[0], num_queries) - 1, np.minimum(first_k + cell[1], num_keys) - 1
        bounds = self.bounds(first_q, last_q, first_k.T, last_k.T)[id(self.node)]
        return np.broadcast_to(bounds.low + bounds.high, (len(first_q), len(first_k))).astype(np.int64)

    def bounds(self, first_q: Integers, last_q: Integers, first_k: Integers, last_k: Integers) -> dict[int, Interval]:
        """Bounds of every node over blocks from the first to the last query and key, inclusive."""
        positions = {
            self.query: Interval((first_q + self.offset).astype(float), (last_q + self.offset).astype(float)),
            self.key: Interval(first_k.astype(float), last_k.astype(float)),
        }
        return all_bounds(self.node, Block(positions, positions, {}, self.tables))

    def method(self, residue: Node, side: int) -> tuple[Callable[[Node, _Blocks], Integers] | None, int]:
        """How to count blocks of one side where ``residue`` decides, and how many values each takes; None to split."""
        if isinstance(residue, Constant):
            return self.all_or_nothing, 1
        read = coordinates_read(residue)
        if side <= _CHUNK // 2:
            if self.query not in read:
                return self.columns_alone, side
            if self.key not in read:
                return self.rows_alone, side
            if shift(residue) == 0:
                return self.differences, 2 * side
        return (self.pairs, side * side) if side <= _LEAF else (None, 0)

    def residues(self, blocks: _Blocks) -> Iterator[tuple[Node, _Blocks]]:
        """What is left of the graph in each block once the truth values that the block decides are put in."""
        last_q, last_k = blocks.query + blocks.rows - 1, blocks.key + blocks.columns - 1
        bounds = self.bounds(blocks.query, last_q, blocks.key, last_k)
        truths = [n for n in walk(self.node) if n.kind is Kind.BOOL and not isinstance(n, Constant)]
        shape = blocks.query.shape
        # 0 never, 1 unknown, 2 always
        states = [np.broadcast_to(bounds[id(n)].low + bounds[id(n)].high, shape) for n in truths]
        table = np.stack(states) if states else np.ones((1, *shape))
        kinds, member = np.unique(table, axis=1, return_inverse=True)
        if kinds.shape[1] > _RESIDUES:
            table = table[-1:] if states else table  # the root alone
            truths = truths[-1:]
            kinds, member = np.unique(table, axis=1, return_inverse=True)
        for number in range(kinds.shape[1]):
            decided = {id(n): Constant(bool(s == 2)) for n, s in zip(truths, kinds[:, number], strict=False) if s != 1}
            yield put_in(self.node, decided), blocks.pick(member.reshape(-1) == number)

    def all_or_nothing(self, node: Node, blocks: _Blocks) -> Integers:
        """A constant: the area, or 0."""
        return blocks.rows * blocks.columns * int(isinstance(node, Constant) and bool(node.value))

    def columns_alone(self, node: Node, blocks: _Blocks) -> Integers:
        """The graph reads the key only: kept keys times rows."""
        step = np.arange(blocks.columns.max(), dtype=np.int64)
        inside = step < blocks.columns[:, None]
        key = blocks.key[:, None] + np.where(inside, step, 0)
        kept = self.values(node, blocks.query[:, None] + self.offset, key) & inside
        return kept.sum(axis=1) * blocks.rows

    def rows_alone(self, node: Node, blocks: _Blocks) -> Integers:
        """The graph reads the query only: kept rows times keys."""
        step = np.arange(blocks.rows.max(), dtype=np.int64)
        inside = step < blocks.rows[:, None]
        query = blocks.query[:, None] + np.where(inside, step, 0)
        kept = self.values(node, query + self.offset, blocks.key[:, None]) & inside
        return kept.sum(axis=1) * blocks.columns

    def differences(self, node: Node, blocks: _Blocks) -> Integers:
        """The graph reads the difference only: each diagonal's value times its length within the block."""
        rows, columns = blocks.rows[:, None], blocks.columns[:, None]
        step = np.arange(
            (rows + columns).max() - 1, dtype=np.int64
        )  # from the upper right corner to the left, then down
        across = np.clip(columns - 1 - step, 0, None)
        down = np.clip(step - (columns - 1), 0, None)
        length = np.clip(np.minimum(rows - down, columns - across), 0, None)
        query = blocks.query[:, None] + np.minimum(down, rows - 1) + self.offset
        return np.where(self.values(node, query, blocks.key[:, None] + across), length, 0).sum(axis=1)

    def pairs(self, node: Node, blocks: _Blocks) -> Integers:
        """Every pair of the blocks."""
        down, across = (np.arange(n.max(), dtype=np.int64) for n in (blocks.rows, blocks.columns))
        inside_q, inside_k = down < blocks.rows[:, None], across < blocks.columns[:, None]
        query = blocks.query[:, None] + np.where(inside_q, down, 0) + self.offset
        key = blocks.key[:, None] + np.where(inside_k, across, 0)
        kept = self.values(node, query[:, :, None], key[:, None, :])
        return (kept & inside_q[:, :, None] & inside_k[:, None, :]).sum(axis=(1, 2))

    def values(self, node: Node, query: Integers, key: Integers) -> NDArray[np.bool_]:
        """The graph's values, broadcast over both positions."""
        import torch

        places = {
            self.query: torch.as_tensor(np.ascontiguousarray(query)),
            self.key: torch.as_tensor(np.ascontiguousarray(key)),
        }
        environment = Environment(places, places, {}, torch.float64, torch.device("cpu"), tables=self.cpu_tables)
        result: Tensor = evaluate(node, environment)
        return result.broadcast_to(np.broadcast_shapes(query.shape, key.shape)).numpy()
