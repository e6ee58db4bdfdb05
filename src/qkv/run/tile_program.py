"""The reader for tiles: a spec's graphs as the flat lists that the compiled core makes programs of.

A graph is flattened once for each spec; a call brings sizes, offsets and the addresses of its tables. This module
knows which lookups may leave their tables, and under which condition that counts; it refuses to know how a tile is
computed, which is the core's affair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..core import loaded
from ..errors import InternalError
from ..terms.derivative import derivative, lookups_of
from ..terms.expr import (
    Apply,
    Captured,
    Constant,
    Index,
    Kind,
    Lookup,
    Node,
    Opening,
    Position,
    Score,
    Size,
    captured_in,
    children,
    walk,
)
from ..terms.score import Projection

if TYPE_CHECKING:
    from torch import Tensor

    from ..core import Graph, Terms
    from ..spec import Lowered
    from .bind import Bound

_OPERATIONS = (
    "constant", "position", "index", "size", "score", "lookup", "add", "sub", "mul", "floordiv", "mod", "pow", "div",
    "lt", "le", "eq", "ne", "gt", "ge", "and", "or", "xor", "not", "min", "max", "neg", "abs", "exp", "log", "sqrt",
    "tanh", "sigmoid", "erf", "sin", "cos", "float", "floor", "select",
)  # fmt: skip
_CODES = {name: code for code, name in enumerate(_OPERATIONS)}
"""The operations in the order of csrc/graph.h."""

_ELEMENTS = ("bool", "uint8", "int8", "int16", "int32", "int64", "float32", "float64", "bfloat16", "float16")

LEARNT_ELEMENTS = 1 << 16
"""Whole numbers of a score's table that are read for their bounds, at most: small buckets are computed in 32 bits."""

Given = tuple[tuple[str, tuple[str, ...]], ...]
"""Coordinates whose positions are tensors, with the axes that each tensor changes along."""

SHARED_CALLS = 64
"""Calls of one spec whose programs are remembered: those of a model's layers, and a decoder's last lengths."""

FlatNode = tuple[int, int, list[int], int, int, float]
FlatTable = tuple[int, int, list[int], list[int], bool]


@dataclass(frozen=True, slots=True)
class Compiled:
    """The flattened graphs of a spec.

    ``tables`` are the captured tensors in the order in which a call gives them, followed by one position tensor for
    each coordinate of ``given``. ``lookups`` names the lookup of a node that may be reported as outside.
    """

    graph: Graph
    names: tuple[str, ...]
    tables: tuple[Captured, ...]
    given: Given
    learnt: frozenset[Captured]
    lookups: dict[int, Lookup]
    shared: dict[object, Terms] = field(default_factory=dict[object, "Terms"], compare=False, repr=False)

    def bind(self, bound: Bound, rows: Sequence[str] | None = None) -> Terms:
        """The programs of one call. ``rows`` orders the query-only coordinates in the flat index of rows, major to
        minor, where it is another order than ``query_order``. Every coordinate has at least one element.

        Calls that differ in nothing that programs depend on share them: nobody's numbers were read to make them then.
        """
        lowered, sizes = bound.lowered, bound.frame.sizes
        order = lowered.query_order if rows is None else tuple(rows)
        wide = str(bound.working_dtype) == "torch.float64"
        known = bound.places.places
        offsets = tuple(known[name].offset if name in known else 0 for name in self.names)
        alive = [readable(bound.tables.get(table, table.tensor)) for table in self.tables]
        tables = [described(x, table in self.learnt) for x, table in zip(alive, self.tables, strict=True)]
        if not self.shareable:
            return self._bound(bound, order, offsets, wide, alive, tables)
        places = tuple((address, tuple(shape), tuple(strides)) for address, _, shape, strides, _ in tables)
        key = (tuple(sizes[name] for name in self.names), order, offsets, wide, places)
        made = self.shared.get(key)
        if made is None:
            if len(self.shared) >= SHARED_CALLS:
                self.shared.clear()
            made = self.shared[key] = self._bound(bound, order, offsets, wide, alive, tables)
        return made

    @property
    def shareable(self) -> bool:
        """Whether no values of a caller's tensors are read when a call is bound, and none of its own are held."""
        own = all(table.movable for table in self.learnt)
        return own and not self.given and not any(isinstance(table, Projection | Opening) for table in self.tables)

    def _bound(
        self,
        bound: Bound,
        order: tuple[str, ...],
        offsets: tuple[int, ...],
        wide: bool,
        alive: list[Tensor],
        tables: list[FlatTable],
    ) -> Terms:
        coordinates = self._placed(bound, order, offsets)
        for name, axes in self.given:
            place = bound.places.places[name].given
            if place is None:
                raise InternalError(f'"{name}" has no position tensor in this call; please report this')
            alive.append(_along(place, axes, bound.places.names))
            tables.append(described(alive[-1], True))
        return self.graph.bind(coordinates, tables, wide, alive)

    def coordinates(self, bound: Bound, order: tuple[str, ...]) -> list[tuple[int, int, int, int]]:
        """Each coordinate of a call as the core is told it: role, size, step in the flat index, first position."""
        known = bound.places.places
        return self._placed(bound, order, tuple(known[n].offset if n in known else 0 for n in self.names))

    def _placed(
        self, bound: Bound, order: tuple[str, ...], offsets: tuple[int, ...]
    ) -> list[tuple[int, int, int, int]]:
        sizes, steps = bound.frame.sizes, dict[str, tuple[int, int]]()
        for role, group in enumerate((bound.lowered.shared, order, bound.lowered.key)):
            step = 1
            for name in reversed(group):
                steps[name] = (role, step)
                step *= sizes[name]
        return [(steps[n][0], sizes[n], steps[n][1], at) for n, at in zip(self.names, offsets, strict=True)]


def compiled(bound: Bound, gradients: Iterable[Captured] | None = None) -> Compiled:
    """The flattened graphs of a call's spec, made once and kept with it.

    With ``gradients`` (perhaps of no table) the derivative of the score is among them, and that by every lookup in
    those tables.
    """
    given = given_positions(bound)
    wanted = None if gradients is None else tuple(gradients)
    key = (given, wanted)
    made = bound.lowered.programs
    if key not in made:
        made[key] = _compile(bound.lowered, given, wanted)
    return made[key]


def given_positions(bound: Bound) -> Given:
    """The coordinates of a call whose positions are a tensor, with the axes that it changes along."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for name, place in bound.places.places.items():
        if place.given is not None:
            names = bound.places.names
            axes = tuple(n for n, size in zip(names, place.given.shape, strict=True) if size != 1 or n == name)
            found.append((name, axes))
    return tuple(found)


def _along(given: Tensor, axes: tuple[str, ...], names: tuple[str, ...]) -> Tensor:
    """A position tensor over the score's axes as one over ``axes`` alone."""
    for axis in reversed(range(len(names))):
        if names[axis] not in axes:
            given = given.select(axis, 0)
    return given


def readable(tensor: Tensor) -> Tensor:
    """The tensor, with elements that the core knows."""
    name = str(tensor.dtype).removeprefix("torch.")
    if name in _ELEMENTS:
        return tensor
    return tensor.float() if tensor.dtype.is_floating_point else tensor.long()


def described(tensor: Tensor, learn: bool) -> FlatTable:
    """Address, elements, sizes and strides, and whether bounds of the values may be learnt."""
    if tensor.device.type != "cpu":
        raise InternalError(f"a table on {tensor.device} was given to the core; please report this")
    code = _ELEMENTS.index(str(tensor.dtype).removeprefix("torch."))
    return (tensor.data_ptr(), code, list(tensor.shape), list(tensor.stride()), learn)


def _compile(lowered: Lowered, given: Given, wanted: tuple[Captured, ...] | None) -> Compiled:
    names = (*lowered.shared, *lowered.query_order, *lowered.key)
    row = None if lowered.row_table is None else lowered.row_table[1]
    graphs = [g for g in (lowered.keep, lowered.score, row) if g is not None]
    tables = tuple(dict.fromkeys(table for graph in graphs for table in captured_in(graph)))
    flat = _Flat(names, tables, given)
    keep = -1 if lowered.keep is None else flat.add(lowered.keep)
    score = -1 if lowered.score is None else flat.add(lowered.score)
    row_node = -1 if row is None else flat.add(row)
    guards = [[] if g is None else flat.guards(g) for g in (lowered.keep, lowered.score, row)]
    by_score, gradients = -1, list[tuple[int, int]]()
    if wanted is not None and lowered.score is not None:
        by_score = flat.add(derivative(lowered.score, Score()))
        for table in wanted:
            for lookup in lookups_of(lowered.score, table):
                gradients.append((flat.add(lookup), flat.add(derivative(lowered.score, lookup))))
    graph = loaded().Graph(
        flat.nodes, len(names), len(tables) + len(given), keep, score, by_score, row_node, gradients, *guards
    )
    masks = frozenset[Captured]() if lowered.keep is None else frozenset(captured_in(lowered.keep))
    small = frozenset(t for t in tables if t.kind is not Kind.FLOAT and t.tensor.numel() <= LEARNT_ELEMENTS)
    return Compiled(graph, names, tables, given, masks | small, flat.lookups)


class _Flat:
    """Graphs as one list of nodes, operands before what uses them, equal nodes once."""

    def __init__(self, names: tuple[str, ...], tables: tuple[Captured, ...], given: Given) -> None:
        self.nodes: list[FlatNode] = []
        self.numbers: dict[tuple[object, ...], int] = {}
        self.places = {name: n for n, name in enumerate(names)}
        self.tables = {table: n for n, table in enumerate(tables)}
        self.given = {name: (len(tables) + n, axes) for n, (name, axes) in enumerate(given)}
        self.lookups: dict[int, Lookup] = {}

    def add(self, root: Node) -> int:
        """The number of the graph's last node."""
        done: dict[int, int] = {}
        for node in walk(root):
            done[id(node)] = self.one(node, [done[id(child)] for child in children(node)])
        return done[id(root)]

    def one(self, node: Node, below: list[int]) -> int:
        match node:
            case Constant(value):
                return self.constant(value)
            case Position(coordinate) if coordinate in self.given:
                table, axes = self.given[coordinate]
                return self.put(
                    "lookup", Kind.INT, [self.put("index", Kind.INT, [], self.places[a]) for a in axes], table
                )
            case Position(coordinate):
                return self.put("position", Kind.INT, [], self.places[coordinate])
            case Index(coordinate):
                return self.put("index", Kind.INT, [], self.places[coordinate])
            case Size(coordinate):
                return self.put("size", Kind.INT, [], self.places[coordinate])
            case Score():
                return self.put("score", Kind.FLOAT, [])
            case Lookup(table):
                number = self.put("lookup", node.kind, below, self.tables[table])
                self.lookups[number] = node
                return number
            case Apply(operation):
                return self.put(operation, node.kind, below)

    def put(
        self, operation: str, kind: Kind, below: list[int], which: int = -1, whole: int = 0, real: float = 0.0
    ) -> int:
        key = (operation, kind, tuple(below), which, whole, repr(real))
        if key not in self.numbers:
            self.numbers[key] = len(self.nodes)
            self.nodes.append((_CODES[operation], int(kind), below, which, whole, real))
        return self.numbers[key]

    def constant(self, value: bool | int | float) -> int:
        if isinstance(value, float):
            return self.put("constant", Kind.FLOAT, [], real=value)
        return self.put("constant", Kind.BOOL if isinstance(value, bool) else Kind.INT, [], whole=int(value))

    def both(self, a: int, b: int) -> int:
        """``a & b``, where True is left out."""
        true = self.constant(True)
        return b if a == true else a if b in (true, a) else self.put("and", Kind.BOOL, [a, b])

    def either(self, a: int, b: int) -> int:
        """``a | b``, where False is left out and True takes all."""
        true, false = self.constant(True), self.constant(False)
        if true in (a, b):
            return true
        return b if a == false else a if b in (false, a) else self.put("or", Kind.BOOL, [a, b])

    def guards(self, root: Node) -> list[tuple[int, int]]:
        """For each lookup of the graph, the truth value that says where it is read outside its table: an index is
        beyond, and no branch, ``&`` or ``|`` keeps the reader from looking.
        """
        order = list(walk(root))
        numbers = {id(node): self.add(node) for node in order}
        true, false = self.constant(True), self.constant(False)
        looked: dict[int, int] = {id(node): false for node in order}
        looked[id(root)] = true
        found: dict[int, int] = {}
        for node in reversed(order):
            here = looked[id(node)]
            for place, child in enumerate(children(node)):
                there = self.both(here, self.looks(node, place, numbers))
                looked[id(child)] = self.either(looked[id(child)], there)
            if isinstance(node, Lookup) and node.indices:
                number = numbers[id(node)]
                beyond = self.both(here, self.beyond(node, [numbers[id(i)] for i in node.indices]))
                found[number] = self.either(found.get(number, false), beyond)
        return list(found.items())

    def looks(self, node: Node, place: int, numbers: dict[int, int]) -> int:
        """Where a node looks at its operand number ``place``."""
        if not isinstance(node, Apply):
            return self.constant(True)
        first = numbers[id(node.operands[0])]
        match node.operation, place:
            case ("select", 1) | ("and", 1):
                return first
            case ("select", 2) | ("or", 1):
                return self.put("not", Kind.BOOL, [first])
            case _:
                return self.constant(True)

    def beyond(self, node: Lookup, indices: list[int]) -> int:
        """Where one of the indices is below 0 or not below its axis's size."""
        result = self.constant(False)
        zero = self.constant(0)
        extents = node.table.extents(len(indices))
        for index, size in zip(indices, extents, strict=True):
            if size is None:
                continue
            result = self.either(result, self.put("lt", Kind.BOOL, [index, zero]))
            result = self.either(result, self.put("ge", Kind.BOOL, [index, self.constant(size)]))
        return result
