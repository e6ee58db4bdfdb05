"""Making nodes of a written-out graph: each once, with its coordinates and element type, the simplest parts left out.

For what is made of a graph after it was checked, as gradients are. Knows arithmetic on nodes; refuses to know why.
"""

from __future__ import annotations

from typing import Any

from .elems import meet
from .graph import Coords, Node, union

_TRUTH = frozenset({"lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not"})


class Maker:
    """Nodes made so far."""

    def __init__(self) -> None:
        self.made: dict[Any, Node] = {}
        self.fresh_names = 0
        self.ranges: dict[str, str] = {}  # the coordinates of recurrences made here, and what each ranges over

    def node(self, op: str, data: Any, args: tuple[Node, ...], coords: Coords, dtype: str) -> Node:
        """The one node of these parts."""
        key = (op, data, tuple(map(id, args)), coords, dtype)
        if key not in self.made:
            span = next((a.span for a in args if a.span != (0, 0)), (0, 0))
            self.made[key] = Node(op, data, args, coords, dtype, span)
        return self.made[key]

    def fresh(self, name: str) -> str:
        """A coordinate that nothing else has, called like ``name``."""
        self.fresh_names += 1
        return f"{name.split('.')[0]}.g{self.fresh_names}"

    def number(self, value: float) -> Node:
        """A number."""
        return self.node("number", value, (), (), "int" if isinstance(value, int) else "real")

    def index(self, name: str) -> Node:
        """The index along a coordinate."""
        return self.node("index", name, (), (name,), "int")

    def size(self, name: str) -> Node:
        """The size of a coordinate."""
        return self.node("size", name, (), (), "int")

    def point(self, name: str, *args: Node) -> Node:
        """A pointwise function."""
        coords = union(*(a.coords for a in args))
        if name in _TRUTH:
            return self.node("point", name, args, coords, "bool")
        values = args[1:] if name == "select" else args
        dtype = values[0].dtype
        for each in values[1:]:
            dtype = meet(dtype, each.dtype) or dtype
        if name in ("div", "pow", "exp", "log", "sqrt", "erf", "sigmoid") and dtype in ("int", "i32", "i64"):
            dtype = "real"
        return self.node("point", name, args, coords, dtype)

    def add(self, a: Node, b: Node) -> Node:
        """``a + b``; ``a - c`` where b is ``-c``."""
        if b.op == "point" and b.data == "neg":
            return self.point("sub", a, b.args[0])
        return self.point("add", a, b)

    def sub(self, a: Node, b: Node) -> Node:
        """``a - b``."""
        return self.point("sub", a, b)

    def mul(self, a: Node, b: Node) -> Node:
        """``a * b``."""
        if is_number(b, 1):
            return a
        if is_number(a, 1):
            return b
        return self.point("mul", a, b)

    def div(self, a: Node, b: Node) -> Node:
        """``a / b``."""
        return a if is_number(b, 1) else self.point("div", a, b)

    def choose(self, condition: Node | None, chosen: Node, other: Node | None = None) -> Node:
        """``if condition { chosen } else { other }``; without a condition, ``chosen``; without another, 0."""
        if condition is None:
            return chosen
        return self.point("select", condition, chosen, self.number(0) if other is None else other)

    def both(self, a: Node | None, b: Node) -> Node:
        """``a && b``."""
        return b if a is None else self.point("and", a, b)

    def sum(self, x: Node, names: Coords) -> Node:
        """``sum[names](x)`` over those of the names that it has."""
        return self.reduce("sum", x, tuple(n for n in names if n in x.coords))

    def reduce(self, kind: str, x: Node, names: Coords) -> Node:
        """A reduction."""
        if not names:
            return x
        return self.node("reduce", (kind, names), (x,), tuple(c for c in x.coords if c not in names), x.dtype)

    def rename(self, x: Node, pairs: dict[str, str]) -> Node:
        """The value under other coordinates."""
        pairs = {a: b for a, b in pairs.items() if a in x.coords and a != b}
        if not pairs:
            return x
        return self.node("rename", tuple(pairs.items()), (x,), tuple(pairs.get(c, c) for c in x.coords), x.dtype)

    def gather(self, x: Node, axis: str, at: Node, guard: Node | None = None) -> Node:
        """``x`` at a computed index along ``axis``; looked at only where ``guard`` holds."""
        coords = union(tuple(c for c in x.coords if c != axis), at.coords, () if guard is None else guard.coords)
        return self.node("gather", axis, (x, at) if guard is None else (x, at, guard), coords, x.dtype)

    def expanded(self, x: Node, coords: Coords, like: Node) -> Node:
        """``x`` with all of ``coords``, which ``like`` has: repeated along those that it lacks."""
        missing = [c for c in coords if c not in x.coords]
        if any(c.startswith("..") for c in missing):  # a rest has no index; something that has it lends it
            same = self.point("eq", like, like)
            x = self.point("select", same, x, x)
            extra = tuple(c for c in x.coords if c not in coords)
            return self.reduce("max", x, extra)
        for c in missing:
            x = self.point("add", x, self.point("mul", self.number(0), self.index(c)))
        return x


def is_number(node: Node, value: float) -> bool:
    """Whether a node is this number as it is written."""
    return node.op == "number" and not isinstance(node.data, bool) and node.data == value
