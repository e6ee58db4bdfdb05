"""A written-out graph as a function of the notation: lets for what is used twice or has to have a name, and its values.

What is written checks and means the same. Knows graphs and trees; refuses to know what the graph is for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

from .. import limits
from ..errors import LimitError
from . import tree
from .expressions import OPERATIONS, POINTWISE
from .graph import Coords, Node, Slot, walk
from .names import taken

_AT = (0, 0)
_SIGNS = {operation: sign for sign, operation in OPERATIONS.items()}
_DEEP, _DEEP_SUM = 12, 3
"""An expression deeper than this gets a name for its part; a sum's product is never named, for it is never made."""
_BARE = frozenset({"parameter", "number", "index", "size"})
_NAMED = frozenset({"scan", "merge"})
_SUMS = frozenset({"reduce", "softmax", "cumsum", "concat"})


@dataclass(slots=True)
class Outline:
    """What stands around the lets: the function's name, parameters and results, and what is known of coordinates."""

    name: str
    parameters: list[Slot]
    results: list[Slot]
    fixed: Mapping[str, int] = field(default_factory=dict[str, int])
    ranges: Mapping[str, str] = field(default_factory=dict[str, str])
    differ: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    names: Mapping[int, str] = field(default_factory=dict[int, str])
    orders: Mapping[int, Coords] = field(default_factory=dict[int, Coords])
    formals: Coords = ()


class Written:
    """One function being written."""

    def __init__(self, outline: Outline, outputs: list[Node]) -> None:
        self.outline = outline
        self.lets: list[tree.Let] = []
        self.given = {slot.name: slot for slot in outline.parameters}
        self.names: dict[int, str] = {}
        self.used = {*taken(), *self.given}
        self.coordinates: dict[str, str] = {}
        self.read: set[str] = set()
        self.recurrence: tuple[str, str, frozenset[int]] | None = None
        self.count = 0
        self.kept: list[Node] = []  # nodes made here, which must live as long as their names
        self.orders: dict[str, Coords] = {}  # the order of axes of each recurrence
        self.uses: dict[int, int] = {}
        for node in walk(*outputs):
            for arg in node.args:
                self.uses[id(arg)] = self.uses.get(id(arg), 0) + 1
        for c in (*outline.formals, *(c for slot in (*outline.parameters, *outline.results) for c in slot.coords)):
            self.coordinate(c)
        self.values = [self.output(node) for node in outputs]

    def coordinate(self, name: str) -> str:
        """What a coordinate is called in the text."""
        if name.startswith(".."):
            return name
        if name not in self.coordinates:
            self.coordinates[name] = self.free(name.split(".")[0])
        return self.coordinates[name]

    def free(self, name: str) -> str:
        """The name, or one like it that nothing has."""
        made, n = name, 1
        while made in self.used:
            n += 1
            made = f"{name}_{n}"
        self.used.add(made)
        return made

    def axis(self, name: str) -> tree.AxisName | tree.AxisRest:
        """A coordinate as an axis."""
        return tree.AxisRest(name, _AT) if name.startswith("..") else tree.AxisName(self.coordinate(name), _AT)

    def order(self, node: Node) -> Coords:
        """The order of a let's axes."""
        return self.outline.orders.get(id(node), node.coords)

    def output(self, node: Node) -> tree.Expr:
        """A result: a number, or the name of a tensor."""
        if node.op == "number":
            return self.expression(node, 0)
        if node.op == "parameter":
            self.read.add(node.data)
            return tree.Name(node.data, _AT)
        return self.access(node) if node.op == "merge" else tree.Name(self.name(node), _AT)

    # values

    def value(self, node: Node, depth: int = 0) -> tree.Expr:
        """A node as an expression; its name where it has or needs one."""
        self.count += 1
        if self.count > limits.EIN_NODES:
            raise LimitError(
                f"a function of more than {limits.EIN_NODES} expressions would be written.\n"
                "  Name the parts that a recurrence uses twice in lets before it."
            )
        inside = self.recurrence is not None and id(node) in self.recurrence[2]
        if node.op in _BARE or (inside and node.op != "scan"):
            return self.expression(node, depth)
        if (
            id(node) in self.names
            or node.op in _NAMED
            or self.uses.get(id(node), 0) > 1
            or id(node) in self.outline.names
            or depth > (_DEEP_SUM if node.op in _SUMS else _DEEP)
        ):
            return self.access(node)
        return self.expression(node, depth)

    def name(self, node: Node) -> str:
        """The name of a let for a node, made if there is none."""
        if id(node) not in self.names:
            if node.op == "scan":
                self.scan(node)
            else:
                before, self.recurrence = self.recurrence, None
                value = self.expression(node, 0)
                self.recurrence = before
                named = self.let(self.called(node), self.axes(node), value)
                self.names[id(node)] = named
        return self.names[id(node)]

    def called(self, node: Node) -> str:
        """A name for a node."""
        return self.free(self.outline.names.get(id(node), f"v{len(self.lets) + 1}"))

    def let(self, name: str, axes: tuple[tree.Axis, ...], value: tree.Expr) -> str:
        """One more let."""
        self.lets.append(tree.Let((tree.Target(name, _AT, axes or None, _AT),), value, (), _AT))
        return name

    def access(self, node: Node, changes: Mapping[str, tree.Axis] | None = None) -> tree.Expr:
        """A named node, its axes as they are or changed."""
        changes = changes or {}
        if node.op == "parameter":
            slot = self.given[node.data]
            merged = any(len(a) > 1 and set(a) & set(changes) for a in slot.axes or ())
            if not merged:
                self.read.add(node.data)
                if slot.axes is None:
                    return tree.Name(node.data, _AT)
                return tree.Access(node.data, _AT, tuple(self.declared(a, changes) for a in slot.axes), _AT)
            if id(node) not in self.names:
                self.names[id(node)] = self.let(
                    self.free(f"{node.data}_apart"), self.axes(node), self.expression(node, 0)
                )
        name = self.name(node)
        if node.op == "merge":
            whole, parts = node.data
            group = self.group(parts)
            changes = {whole: tree.AxisAs(group, tree.AxisName(self.coordinate(whole), _AT), _AT), **changes}
        if not node.coords:
            return tree.Name(name, _AT)
        return tree.Access(name, _AT, tuple(changes.get(c, self.axis(c)) for c in self.order(node)), _AT)

    def declared(self, axis: Coords, changes: Mapping[str, tree.Axis]) -> tree.Axis:
        """An axis of a parameter as it was declared."""
        if len(axis) == 1:
            return changes.get(axis[0], self.axis(axis[0]))
        return self.group(axis)

    def group(self, parts: Coords) -> tree.AxisGroup:
        """A merged axis."""
        return tree.AxisGroup(tuple(map(self.coordinate, parts)), (_AT,) * len(parts), _AT)

    def axes(self, node: Node) -> tuple[tree.Axis, ...]:
        """The axes of a let for a node: what a merge merges is one axis of it."""
        whole, parts = node.data if node.op == "merge" else ("", ())
        return tuple(self.group(parts) if c == whole else self.axis(c) for c in self.order(node))

    def expression(self, node: Node, depth: int) -> tree.Expr:
        """What a node is made of."""
        below = depth + 1
        match node.op:
            case "parameter":
                return self.access(node)
            case "number":
                return _number(node.data)
            case "index":
                return tree.Name(self.coordinate(node.data), _AT)
            case "size":
                return tree.SizeOf(tree.AxisName(self.coordinate(node.data), _AT), _AT)
            case "strategy":
                return self.value(node.args[0], depth)
            case "cast":
                return tree.Cast(self.value(node.args[0], below), node.data, _AT, _AT)
            case "point":
                return self.point(node, below)
            case "reduce" | "softmax":
                return self.reduction(node, node.data[0], node.data[1], below)
            case "cumsum":
                return self.reduction(node, "cumsum", (node.data,), below)
            case "only":
                return self.reduction(node, "only", node.data, below)
            case "rename":
                by = {old: tree.AxisAs(self.axis_name(old), self.axis_name(new), _AT) for old, new in node.data}
                return self.access(self.plain(node.args[0], by), by)
            case "split":
                whole, parts = node.data
                by = {whole: tree.AxisAs(self.axis_name(whole), self.group(parts), _AT)}
                return self.access(self.plain(node.args[0], by), by)
            case "gather":
                return self.gather(node)
            case "concat":
                return self.concat(node, below)
            case "merge":
                return self.value(node.args[0], depth)
            case "self":
                return self.before(node)
            case _:
                return self.access(node)

    def axis_name(self, name: str) -> tree.AxisName:
        """A coordinate that is no rest, as an axis."""
        return tree.AxisName(self.coordinate(name), _AT)

    def plain(self, node: Node, changes: Mapping[str, tree.Axis]) -> Node:
        """The node, or a let of it where its own reading changes an axis already."""
        if node.op == "merge" and node.data[0] in changes:
            again = Node("strategy", None, (node,), node.coords, node.dtype)
            self.kept.append(again)
            return again
        return node

    def point(self, node: Node, below: int) -> tree.Expr:
        """Pointwise functions, operators and conditions."""
        args = [self.value(a, below) for a in node.args]
        name = node.data
        if name == "select":
            return tree.If(args[0], args[1], args[2], _AT)
        if name in ("neg", "not"):
            return tree.Unary("-" if name == "neg" else "!", args[0], _AT)
        if name in POINTWISE:
            return tree.Call(name, _AT, None, tuple(args), _AT)
        return tree.Binary(_SIGNS[name], args[0], args[1], _AT)

    def reduction(self, node: Node, kind: str, names: Coords, below: int) -> tree.Expr:
        """A reduction. Roles were checked where the text came from; here softmax stands under every sum."""
        body = self.value(node.args[0], below)
        condition = self.value(node.args[1], below) if len(node.args) > 1 else None
        given = kind in ("softmax", "log_softmax")
        return tree.Reduce(kind, _AT, tuple(map(self.axis, names)), body, condition, given, _AT)

    def gather(self, node: Node) -> tree.Expr:
        """A lookup; one with a guard stands in an ``if``."""
        index = self.value(node.args[1], 1)
        if node.args[1].op == "index":  # alone it would be read as the axis's own name
            index = tree.Binary("+", index, tree.Number("0", _AT), _AT)
        by: dict[str, tree.Axis] = {node.data: tree.AxisValue(index, _AT)}
        found = self.access(self.plain(node.args[0], by), by)
        if len(node.args) < 3:
            return found
        return tree.If(self.value(node.args[2], 1), found, _number(False if node.dtype == "bool" else 0), _AT)

    def concat(self, node: Node, below: int) -> tree.Expr:
        """Operands joined; one whose joined coordinate is called as the result's is renamed where it is read."""
        into, _ = node.data
        operands: list[tree.Expr] = []
        for operand in node.args:
            renamed = operand.op == "rename" and any(new == into for _, new in operand.data)
            operands.append(self.expression(operand, below) if renamed else self.value(operand, below))
        return tree.Concat(self.axis_name(into), tuple(operands), _AT)

    # recurrences

    def before(self, node: Node) -> tree.Expr:
        """``h[t - 1, c]``."""
        name, time, _ = self.recurrence or ("", "", frozenset())
        step = tree.Binary("-", tree.Name(self.coordinate(time), _AT), tree.Number(str(node.data[1]), _AT), _AT)
        order = self.orders[node.data[0]]
        axes = tuple(tree.AxisValue(step, _AT) if c == time else self.axis(c) for c in order)
        return tree.Access(name, _AT, axes, _AT)

    def scan(self, node: Node) -> None:
        """The first values and the step."""
        key, time, first = node.data
        self.orders[key] = self.order(node)
        inner: set[int] = set()
        for each in walk(node.args[-1]):
            if (each.op == "self" and each.data[0] == key) or any(id(a) in inner for a in each.args):
                inner.add(id(each))
        # what depends on no step before is written first, for inside a recurrence nothing gets a name
        outside = self.recurrence
        self.recurrence = None
        bases = [self.value(base) for base in node.args[:-1]]
        name = self.called(node)
        self.recurrence = (name, time, frozenset(inner))
        step = self.value(node.args[-1])
        self.recurrence = outside
        for n, base in enumerate(bases):
            at: tuple[tree.Axis, ...] = tuple(
                tree.AxisValue(tree.Number(str(n), _AT), _AT) if c == time else self.axis(c) for c in self.order(node)
            )
            self.let(name, at, base)
        over = self.outline.ranges[time]
        last = tree.Number(over, _AT) if over.isdigit() else tree.Name(self.coordinate(over), _AT)
        t = self.coordinate(time)
        ranged = tuple(
            tree.AxisRange(t, _AT, tree.Number(str(first), _AT), last, _AT) if c == time else self.axis(c)
            for c in self.order(node)
        )
        self.let(name, ranged, step)
        self.names[id(node)] = name

    # the whole

    def function(self) -> tree.Function:
        """The function."""
        outline = self.outline
        ranged = {self.coordinate(t) for t in outline.ranges if t in self.coordinates}
        used = _mentioned(self.lets)
        used |= {self.coordinate(c) for slot in (*outline.parameters, *outline.results) for c in slot.coords}
        formals = tuple(
            tree.Formal(shown, _AT, outline.fixed.get(name))
            for name, shown in self.coordinates.items()
            if shown in used or shown in ranged
        )
        parameters = tuple(
            tree.Parameter(s.name if s.name in self.read else f"_{s.name}", _AT, self.type(s))
            for s in outline.parameters
        )
        shown = {f.name for f in formals}
        differ = tuple(
            tree.Differ(tree.AxisName(a, _AT), tree.AxisName(b, _AT), _AT) for a, b in outline.differ if {a, b} <= shown
        )
        results = tuple(self.type(s) for s in outline.results)
        return tree.Function(
            outline.name, _AT, formals, parameters, results, differ, tuple(self.lets), tuple(self.values), (), _AT, _AT
        )

    def type(self, slot: Slot) -> tree.Type:
        """A type."""
        axes = None if slot.axes is None else tuple(self.declared(a, {}) for a in slot.axes)
        return tree.Type(slot.elem, _AT, axes, _AT)


def _number(value: float) -> tree.Expr:
    """A number as it is written."""
    if isinstance(value, bool):
        return tree.Number("true" if value else "false", _AT)
    size = tree.Number("inf" if math.isinf(value) else repr(abs(value)), _AT)
    return tree.Unary("-", size, _AT) if value < 0 else size


def _mentioned(lets: Iterable[tree.Let]) -> set[str]:
    """Every name that stands in lets."""
    found: set[str] = set()
    stack: list[object] = list(lets)
    while stack:
        current = stack.pop()
        if isinstance(current, str):
            found.add(current)
        elif isinstance(current, tuple):
            stack.extend(cast("tuple[object, ...]", current))
    return found
