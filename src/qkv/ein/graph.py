"""The named graph: what a checked text computes, every value with its coordinates, element type and place.

Nodes are immutable and shared. A function's own graph mentions its rests and calls by name; a graph that runs has
them written out (``inline``). This module knows nodes; it refuses to know how they are made or run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .report import Span

Coords = tuple[str, ...]
"""Coordinates in the order in which they are laid out; a rest stands in it as ``..b`` until it is written out."""


@dataclass(slots=True, eq=False)
class Node:
    """One value.

    ``op``: ``parameter``, ``number``, ``index``, ``size``, ``point`` (a pointwise function, named by ``data``),
    ``reduce``, ``softmax``, ``cumsum``, ``rename``, ``split``, ``merge``, ``gather``, ``concat``, ``only``, ``cast``,
    ``call``, ``scan``, ``self`` (what a recurrence made before), ``strategy``, and after recognition ``attention``.
    ``data`` is what else belongs to the operation. ``bad`` marks what stands for a mistake already reported.
    """

    op: str
    data: Any
    args: tuple[Node, ...]
    coords: Coords
    dtype: str
    span: Span = (0, 0)
    bad: bool = False
    name: str = ""


def union(*parts: Iterable[str]) -> Coords:
    """All coordinates, each once, in the order of first appearance."""
    return tuple(dict.fromkeys(name for part in parts for name in part))


def walk(*roots: Node) -> Iterator[Node]:
    """Every node below ``roots`` and they themselves, each once, operands before what uses them."""
    seen: set[int] = set()
    stack: list[tuple[Node, bool]] = [(root, False) for root in reversed(roots)]
    while stack:
        node, done = stack.pop()
        if done:
            yield node
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((child, False) for child in node.args)


def factors(node: Node) -> list[Node]:
    """The factors of a product, from left to right; the node itself when it is none."""
    found: list[Node] = []
    stack = [node]
    while stack:
        current = stack.pop()
        if current.op == "point" and current.data == "mul":
            stack.extend(reversed(current.args))
        elif current.op == "strategy":
            stack.append(current.args[0])
        else:
            found.append(current)
    return found


def conjuncts(node: Node) -> list[Node]:
    """The conditions that ``&&`` joins."""
    found: list[Node] = []
    stack = [node]
    while stack:
        current = stack.pop()
        if current.op == "point" and current.data == "and":
            stack.extend(reversed(current.args))
        else:
            found.append(current)
    return found


@dataclass(frozen=True, slots=True)
class Constraint:
    """One line of a function's contract about sizes.

    ``kind``: ``one`` (the coordinate has size 1), ``free`` (the same, because nothing reduces it), ``equal``,
    ``sum`` (the first is the sum of the others), ``product``, ``fixed`` (to ``number``).
    """

    kind: str
    names: Coords
    span: Span
    number: int = 0

    def __str__(self) -> str:
        names = [plain(n) for n in self.names]
        match self.kind:
            case "one" | "free":
                return f"{names[0]} has size 1"
            case "equal":
                return f"{names[0]} = {names[1]}"
            case "sum":
                return f"{names[0]} = {' + '.join(names[1:])}"
            case "product":
                return f"{names[0]} = {' * '.join(names[1:])}"
            case _:
                return f"{names[0]} = {self.number}"


def plain(name: str) -> str:
    """A coordinate as the user wrote it: written-out calls give theirs a number behind a dot."""
    return name.split(".", 1)[0] if not name.startswith("..") else name


@dataclass(frozen=True, slots=True)
class Slot:
    """A parameter or a result: ``axes`` holds the coordinates of each axis, major to minor; None for a scalar."""

    name: str
    elem: str
    axes: tuple[Coords, ...] | None
    span: Span

    @property
    def coords(self) -> Coords:
        """All coordinates in the order of the axes."""
        return () if self.axes is None else tuple(name for axis in self.axes for name in axis)

    @property
    def rest(self) -> str | None:
        """The rest, with its dots, if there is one."""
        return next((n for n in self.coords if n.startswith("..")), None)

    def __str__(self) -> str:
        if self.axes is None:
            return self.elem
        shown = ", ".join(f"({', '.join(axis)})" if len(axis) > 1 else "".join(axis) for axis in self.axes)
        return f"[{self.elem}; {shown}]" if shown else f"[{self.elem}]"


@dataclass(slots=True)
class Definition:
    """One checked function: what it takes and gives, its contract, and its graph."""

    name: str
    formals: Coords
    parameters: tuple[Slot, ...]
    results: tuple[Slot, ...]
    span: Span
    fixed: dict[str, int] = field(default_factory=dict[str, int])
    differ: list[tuple[str, str, Span]] = field(default_factory=list[tuple[str, str, Span]])
    constraints: list[Constraint] = field(default_factory=list[Constraint])
    outputs: tuple[Node, ...] = ()
    lets: dict[str, Node] = field(default_factory=dict[str, Node])
    strategy: str | None = None
    source: Any = None
    sound: bool = True
    readable: bool = True  # the signature: calls are checked against it
    calls: tuple[Node, ...] = ()
    picture: tuple[Node, ...] = ()
    """What is shown of each result where the function is called: see ``across``."""

    @property
    def settled(self) -> frozenset[str]:
        """The coordinates that parameters or results mention."""
        return frozenset(n for slot in (*self.parameters, *self.results) for n in slot.coords)

    @property
    def rests(self) -> Coords:
        """The rests of the parameters."""
        return union(*(tuple(n for n in slot.coords if n.startswith("..")) for slot in self.parameters))
