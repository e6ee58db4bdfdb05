"""The expression graph: what a mask or a score function says, as data.

A node is a constant, a coordinate's position, index or size, the score so far, a lookup in a captured tensor, or an
operation on other nodes. Nodes are immutable, compare by structure, and know their kind (bool, int or float). This
module knows the nodes and the table of operations. It refuses to know how a graph is made (``trace``), what its
values are (``values``), which bounds it has (``interval``) and how it is derived (``derivative``).
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from .. import limits
from ..errors import InternalError, LimitError

if TYPE_CHECKING:
    from torch import Tensor


class Kind(enum.IntEnum):
    """What a node's values are; arithmetic on mixed kinds gives the larger one."""

    BOOL = 0
    INT = 1
    FLOAT = 2

    @property
    def words(self) -> str:
        """How messages call a value of the kind."""
        return ("a truth value", "a whole number", "a float")[self]


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the table: a name, how many operands, and how the result's kind follows from theirs."""

    name: str
    arity: int
    result: Literal["bool", "float", "int", "numeric", "branches", "power"]
    symbol: str = ""


_ROWS = [
    *(
        Operation(n, 2, "numeric", s)
        for n, s in [("add", "+"), ("sub", "-"), ("mul", "*"), ("floordiv", "//"), ("mod", "%")]
    ),
    Operation("pow", 2, "power", "**"),
    Operation("div", 2, "float", "/"),
    *(
        Operation(n, 2, "bool", s)
        for n, s in [("lt", "<"), ("le", "<="), ("eq", "=="), ("ne", "!="), ("gt", ">"), ("ge", ">=")]
    ),
    *(Operation(n, 2, "bool", s) for n, s in [("and", "&"), ("or", "|"), ("xor", "^")]),
    Operation("not", 1, "bool", "~"),
    *(Operation(n, 2, "numeric") for n in ("min", "max")),
    *(Operation(n, 1, "numeric") for n in ("neg", "abs")),
    *(Operation(n, 1, "float") for n in ("exp", "log", "sqrt", "tanh", "sigmoid", "erf", "sin", "cos", "float")),
    Operation("floor", 1, "int"),
    Operation("select", 3, "branches"),
]
OPERATIONS: dict[str, Operation] = {row.name: row for row in _ROWS}
"""Every operation by name. Floor-div and mod round towards minus infinity, as Python's do.

Dividing a whole number by the whole number 0 gives the quotient 0 and the number itself as remainder, so that a branch
that is not taken cannot fail.
"""


class Captured:
    """A tensor that a function of coordinates mentions; two are equal when the tensor is the same object."""

    __slots__ = ("label", "learnt", "movable", "tensor")

    def __init__(self, tensor: Tensor, label: str = "", *, movable: bool = False) -> None:
        self.tensor = tensor
        self.label = label
        self.movable = movable
        """Whether qkv made the tensor and may copy it to another device; a user's tensor stays where it is."""
        self.learnt: object = None
        """What a reader learnt about a tensor of qkv's own, which nobody changes."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Captured) and self.tensor is other.tensor

    def __hash__(self) -> int:
        return id(self.tensor)

    def __repr__(self) -> str:
        shape = "x".join(str(n) for n in self.tensor.shape) or "scalar"
        return f"{self.label or 'tensor'}<{shape}>"

    def extents(self, rank: int) -> tuple[int | None, ...]:
        """The size of each of the ``rank`` axes that lookups index; None where an index fits by construction."""
        del rank
        return tuple(self.tensor.shape)

    @property
    def kind(self) -> Kind:
        """Bool, int or float, by the tensor's element type."""
        dtype = str(self.tensor.dtype)
        if dtype == "torch.bool":
            return Kind.BOOL
        return Kind.FLOAT if self.tensor.dtype.is_floating_point else Kind.INT


class Opening(Captured):
    """A place for a tensor that each call brings, of the shape and type of ``tensor``; equal to itself alone."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


@dataclass(frozen=True, slots=True)
class Constant:
    """A number or a truth value, the same everywhere."""

    value: bool | int | float

    @property
    def kind(self) -> Kind:
        """By the Python type of the value."""
        if isinstance(self.value, bool):
            return Kind.BOOL
        return Kind.INT if isinstance(self.value, int) else Kind.FLOAT

    # True == 1 == 1.0 in Python; nodes of different kinds must not be taken for one another.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and self.kind == other.kind and repr(self.value) == repr(other.value)

    def __hash__(self) -> int:
        return hash((self.kind, repr(self.value)))


@dataclass(frozen=True, slots=True)
class Position:
    """Where an element stands in its sequence: the index plus the offset, or what ``positions=`` says."""

    coordinate: str
    kind: Kind = field(default=Kind.INT, init=False)


@dataclass(frozen=True, slots=True)
class Index:
    """The plain index of a coordinate in this call, from 0."""

    coordinate: str
    kind: Kind = field(default=Kind.INT, init=False)


@dataclass(frozen=True, slots=True)
class Size:
    """How many elements a coordinate has in this call."""

    coordinate: str
    kind: Kind = field(default=Kind.INT, init=False)


@dataclass(frozen=True, slots=True)
class Score:
    """The score so far: the scaled dot product after the terms before this one."""

    kind: Kind = field(default=Kind.FLOAT, init=False)


@dataclass(frozen=True, slots=True)
class Lookup:
    """An element of a captured tensor; one index for each of its axes."""

    table: Captured
    indices: tuple[Node, ...]

    @property
    def kind(self) -> Kind:
        """The captured tensor's kind."""
        return self.table.kind


@dataclass(frozen=True, slots=True)
class Apply:
    """An operation of ``OPERATIONS`` on nodes; ``weight`` and ``depth`` measure the graph, so as to bound it."""

    operation: str
    operands: tuple[Node, ...]
    kind: Kind
    weight: int
    depth: int


Node = Constant | Position | Index | Size | Score | Lookup | Apply
"""Any node of an expression graph."""


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly below; empty for leaves."""
    if isinstance(node, Apply):
        return node.operands
    return node.indices if isinstance(node, Lookup) else ()


def look_up(table: Captured, indices: tuple[Node, ...]) -> Lookup:
    """The node for an element of a captured tensor. Raises ``LimitError`` as ``apply`` does."""
    made = Lookup(table, indices)
    _check_growth(weight(made), 1 + max((depth(index) for index in indices), default=0))
    return made


def _check_growth(nodes: int, levels: int) -> None:
    for name, measured, limit in (
        ("nodes", nodes, limits.EXPRESSION_NODES),
        ("levels", levels, limits.EXPRESSION_DEPTH),
    ):
        if measured > limit:
            raise LimitError(
                f"an expression has more than {limit} {name}.\n"
                "  Was a loop unrolled? Put the numbers into a tensor and index it by coordinates."
            )


def weight(node: Node) -> int:
    """How many nodes the graph has when it is written out as a tree."""
    return node.weight if isinstance(node, Apply) else 1 + sum(weight(index) for index in children(node))


def depth(node: Node) -> int:
    """How many nodes stand on the longest way down, this one included."""
    return node.depth if isinstance(node, Apply) else 1 + max((depth(index) for index in children(node)), default=0)


def apply(operation: str, *operands: Node) -> Node:
    """The node for ``operation`` on ``operands``, with constants folded and neutral elements dropped.

    Raises ``LimitError`` when the graph would exceed ``limits.EXPRESSION_NODES``, written out as a tree, or
    ``limits.EXPRESSION_DEPTH``.
    """
    row = OPERATIONS[operation]
    if len(operands) != row.arity:
        raise InternalError(f"operation {operation} takes {row.arity} operands, not {len(operands)}")
    from .fold import fold

    folded = fold(operation, operands)
    if folded is not None:
        return folded
    total = 1 + sum(weight(operand) for operand in operands)
    levels = 1 + max(depth(operand) for operand in operands)
    _check_growth(total, levels)
    return Apply(operation, operands, result_kind(row, operands), total, levels)


def result_kind(row: Operation, operands: tuple[Node, ...]) -> Kind:
    """The kind of an operation's values, from its operands' kinds."""
    kinds = [operand.kind for operand in operands]
    match row.result:
        case "bool":
            return Kind.BOOL
        case "float":
            return Kind.FLOAT
        case "int":
            return Kind.INT
        case "branches":
            return max(kinds[1:])
        case "power":  # 2 ** -1 is no whole number, so that only a known exponent keeps the kind
            exponent = operands[1]
            whole = isinstance(exponent, Constant) and exponent.kind <= Kind.INT and exponent.value >= 0
            return max(Kind.INT, kinds[0]) if whole else Kind.FLOAT
        case _:
            return max(Kind.INT, *kinds)


def walk(node: Node) -> Iterator[Node]:
    """Every distinct node object of the graph, children before parents."""
    seen: set[int] = set()
    stack: list[tuple[Node, bool]] = [(node, False)]
    while stack:
        current, done = stack.pop()
        if done:
            yield current
        elif id(current) not in seen:
            seen.add(id(current))
            stack.append((current, True))
            stack.extend((child, False) for child in children(current))


def positions_read(node: Node) -> frozenset[str]:
    """The coordinates whose positions the graph reads."""
    return frozenset(n.coordinate for n in walk(node) if isinstance(n, Position))


def coordinates_read(node: Node) -> frozenset[str]:
    """The coordinates whose positions, indices or sizes the graph reads."""
    return frozenset(n.coordinate for n in walk(node) if isinstance(n, Position | Index | Size))


def is_relative(node: Node, moving: frozenset[str]) -> bool:
    """Whether what the graph says of a pair stays when the positions of the ``moving`` coordinates grow by one number:
    it reads those by their differences alone, as whole numbers, and no indices.
    """
    pace: dict[int, int | None] = {}  # how much a node grows with the number; None where that is not one factor

    def of(current: Node) -> int | None:
        if isinstance(current, Index):
            return None
        if isinstance(current, Position):
            return int(current.coordinate in moving)
        below = [pace[id(child)] for child in children(current)]
        if None in below:
            return None
        if isinstance(current, Apply) and below:
            match current.operation:
                case "add":
                    return sum(n for n in below if n is not None)
                case "sub":
                    first, second = below
                    return None if first is None or second is None else first - second
                case "neg":
                    return None if below[0] is None else -below[0]
                case "lt" | "le" | "eq" | "ne" | "gt" | "ge" if below[0] == below[1]:
                    return 0
                case "min" | "max" if len(set(below)) == 1:
                    return below[0]
                case _:
                    pass
        return None if any(below) else 0

    for current in walk(node):
        grows = of(current)
        pace[id(current)] = None if grows and current.kind is Kind.FLOAT else grows  # large positions are rounded
    return pace[id(node)] == 0


def captured_in(node: Node) -> tuple[Captured, ...]:
    """The captured tensors of the graph, each once, in a fixed order."""
    return tuple(dict.fromkeys(n.table for n in walk(node) if isinstance(n, Lookup)))


def reads_score(node: Node) -> bool:
    """Whether the graph depends on the score so far."""
    return any(isinstance(n, Score) for n in walk(node))


def substitute(node: Node, replacements: dict[Node, Node]) -> Node:
    """The graph with each node that is a key of ``replacements`` exchanged for its value."""
    made: dict[int, Node] = {}
    for current in walk(node):
        if current in replacements:
            made[id(current)] = replacements[current]
        elif isinstance(current, Apply):
            made[id(current)] = apply(current.operation, *(made[id(c)] for c in current.operands))
        elif isinstance(current, Lookup):
            made[id(current)] = Lookup(current.table, tuple(made[id(c)] for c in current.indices))
        else:
            made[id(current)] = current
    return made[id(node)]


_WRITTEN = {"select": "where", "min": "minimum", "max": "maximum"}
"""What a user writes for an operation that is called otherwise here."""


def describe(node: Node) -> str:
    """The graph as a line of text, for messages, plans and ``repr``."""
    match node:
        case Constant(value):
            return f"{value:g}" if isinstance(value, float) else str(value)
        case Position(coordinate):
            return coordinate
        case Index(coordinate):
            return f"index({coordinate})"
        case Size(coordinate):
            return f"size_of({coordinate})"
        case Score():
            return "score"
        case Lookup(table, indices):
            return f"{table.label or 'tensor'}[{', '.join(bare(i) for i in indices)}]"
        case Apply(operation, operands):
            symbol = OPERATIONS[operation].symbol
            if symbol and len(operands) == 2:
                return f"({describe(operands[0])} {symbol} {describe(operands[1])})"
            if symbol:
                return f"{symbol}{describe(operands[0])}"
            return f"{_WRITTEN.get(operation, operation)}({', '.join(bare(operand) for operand in operands)})"


def bare(node: Node) -> str:
    """``describe`` without the parentheses around the whole."""
    text = describe(node)
    return text[1:-1] if text.startswith("(") else text
