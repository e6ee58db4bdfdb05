"""Writing a definition's graph out: calls put in, rests replaced by the coordinates that they stand for.

Equal parts become one node. A coordinate of a called function keeps the caller's name, unless two of them stand for one
of the caller's or it is the function's own: then it gets a number behind a dot. Knows names alone, no sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import limits
from ..errors import LimitError
from .calls import Called
from .graph import Constraint, Coords, Definition, Node, union, walk


@dataclass(slots=True)
class Flat:
    """A graph without calls and rests: results, parameters by name, contract, and pairs that must be different."""

    outputs: list[Node]
    parameters: dict[str, Node]
    axes: dict[str, tuple[Coords, ...] | None]
    results: list[tuple[Coords, ...] | None]
    constraints: list[Constraint] = field(default_factory=list[Constraint])
    fixed: dict[str, int] = field(default_factory=dict[str, int])
    named: dict[int, str] = field(default_factory=dict[int, str])
    """What the definition's own lets are called, by the ids of their nodes."""


class Writer:
    """Nodes made so far, each once."""

    def __init__(self) -> None:
        self.made: dict[Any, Node] = {}
        self.number = limits.AXES_PER_TENSOR
        self.constraints: list[Constraint] = []
        self.instances = 0

    def node(self, op: str, data: Any, args: tuple[Node, ...], coords: Coords, like: Node) -> Node:
        """The one node of these parts."""
        key = (op, data, tuple(map(id, args)), coords, like.dtype)
        found = self.made.get(key)
        if found is None:
            if len(self.made) >= limits.EIN_NODES:
                raise LimitError(
                    f"a definition has more than {limits.EIN_NODES} nodes when its calls are written out.\n"
                    "  Functions that call one another twice double with each; name the shared part in a let."
                )
            found = self.made[key] = Node(op, data, args, coords, like.dtype, like.span, name=like.name)
        return found

    def fresh(self, name: str) -> str:
        """A coordinate that nothing else has."""
        self.number += 1
        return f"{name.split('.')[0]}.{self.number}"


class Instance:
    """One definition put in once."""

    def __init__(
        self,
        writer: Writer,
        definition: Definition,
        names: dict[str, str],
        rests: Mapping[str, Coords],
        arguments: Mapping[str, Node],
        generic: str | None,
    ) -> None:
        self.writer = writer
        self.names = names
        self.rests = rests
        self.arguments = arguments
        self.generic = generic
        self.done: dict[int, Node] = {}
        writer.instances += 1
        self.key = writer.instances
        writer.constraints += [
            Constraint(c.kind, self.all(c.names), c.span, c.number)
            for c in definition.constraints
            if not any(n.startswith("..") for n in c.names)
        ]

    def one(self, name: str) -> str:
        """A coordinate under its written-out name."""
        if name not in self.names:
            self.names[name] = self.writer.fresh(name)
        return self.names[name]

    def all(self, names: Coords) -> Coords:
        """Coordinates under their written-out names, rests replaced."""
        return union(*(self.rests.get(n, ()) if n.startswith("..") else (self.one(n),) for n in names))

    def outputs(self, roots: tuple[Node, ...]) -> list[Node]:
        """The results, written out."""
        done = self.done
        for node in walk(*roots):
            done[id(node)] = self.write(node, tuple(done[id(a)] for a in node.args))
        return [done[id(root)] for root in roots]

    def write(self, node: Node, args: tuple[Node, ...]) -> Node:
        """One node."""
        w = self.writer
        if node.dtype == "float" and self.generic is not None:
            node = Node(node.op, node.data, node.args, node.coords, self.generic, node.span, name=node.name)
        match node.op:
            case "parameter":
                return self.arguments[node.data]
            case "call":
                return self.called(node.data, args)
            case "index":
                name = self.one(node.data)
                return w.node("index", name, (), (name,), node)
            case "size":
                return w.node("size", self.one(node.data), (), (), node)
            case "reduce" | "softmax":
                return w.node(node.op, (node.data[0], self.all(node.data[1])), args, self.all(node.coords), node)
            case "only":
                return w.node("only", self.all(node.data), args, self.all(node.coords), node)
            case "cumsum" | "gather":
                return w.node(node.op, self.one(node.data), args, self.all(node.coords), node)
            case "rename":
                pairs = tuple((self.one(a), self.one(b)) for a, b in node.data)
                return w.node("rename", pairs, args, self.all(node.coords), node)
            case "split" | "merge":
                return w.node(
                    node.op, (self.one(node.data[0]), self.all(node.data[1])), args, self.all(node.coords), node
                )
            case "concat":
                return w.node(
                    "concat",
                    (self.one(node.data[0]), tuple(self.one(n) for n in node.data[1])),
                    args,
                    self.all(node.coords),
                    node,
                )
            case "self":
                return w.node("self", (f"{node.data[0]}.{self.key}", node.data[1]), args, self.all(node.coords), node)
            case "scan":
                return w.node(
                    "scan",
                    (f"{node.data[0]}.{self.key}", self.one(node.data[1]), node.data[2]),
                    args,
                    self.all(node.coords),
                    node,
                )
            case "cast":
                elem = self.generic if node.data == "float" and self.generic else node.data
                return w.node("cast", elem, args, self.all(node.coords), Node("", 0, (), (), elem, node.span))
            case _:
                return w.node(node.op, node.data, args, self.all(node.coords), node)

    def called(self, called: Called, args: tuple[Node, ...]) -> Node:
        """The result of a call, its function put in."""
        w, function, binding = self.writer, called.function, called.binding
        inside: dict[str, str] = {}
        taken: set[str] = set()
        for formal, actual in binding.names.items():
            name = self.one(actual)
            if name in taken or formal in binding.renamed:
                inside[formal] = w.fresh(formal)
                w.constraints.append(Constraint("equal", (inside[formal], name), function.span))
            else:
                inside[formal] = name
                taken.add(name)
        rests = {rest: self.all(names) for rest, names in binding.rests.items()}
        arguments: dict[str, Node] = {}
        generic = self.generic
        for slot, arg in zip(function.parameters, args, strict=True):
            pairs = tuple(
                (self.one(binding.names[f]), inside[f])
                for f in slot.coords
                if not f.startswith("..") and self.one(binding.names[f]) != inside[f]
            )
            arguments[slot.name] = self.renamed(arg, pairs)
            if slot.elem == "float" and arg.dtype not in ("int", "real"):
                generic = arg.dtype
        result = Instance(w, function, inside, rests, arguments, generic).outputs((function.outputs[called.number],))[0]
        for name, size in function.fixed.items():
            w.constraints.append(Constraint("fixed", (inside.get(name, name),), function.span, size))
        back = tuple(
            (inside[f], self.one(binding.renamed.get(f, a)))
            for f, a in binding.names.items()
            if f in function.results[called.number].coords and inside[f] != self.one(binding.renamed.get(f, a))
        )
        w.constraints += [Constraint("equal", pair, function.span) for pair in back]
        return self.renamed(result, back)

    def renamed(self, node: Node, pairs: tuple[tuple[str, str], ...]) -> Node:
        """The node under other coordinates."""
        by = {a: b for a, b in pairs if a in node.coords}
        if not by:
            return node
        return self.writer.node("rename", tuple(by.items()), (node,), tuple(by.get(c, c) for c in node.coords), node)


def write_out(definition: Definition, counts: Mapping[str, int], generic: str | None = None) -> Flat:
    """The graph of ``definition`` for ``counts[rest]`` coordinates in each rest (with its dots).

    ``generic`` is the element type that ``float`` stands for. Raises ``LimitError`` when it grows beyond bounds.
    """
    return _written(
        definition,
        {rest: tuple(f"{rest[2:]}.{n}" for n in range(counts.get(rest, 0))) for rest in definition.rests},
        generic,
    )


def with_rests(definition: Definition) -> Flat:
    """The graph of ``definition`` without calls; rests and ``float`` stay as they are."""
    return _written(definition, {rest: (rest,) for rest in definition.rests}, None)


def _written(definition: Definition, rests: Mapping[str, Coords], generic: str | None) -> Flat:
    writer = Writer()
    names = {f: f for f in definition.formals}
    parameters: dict[str, Node] = {}
    axes: dict[str, tuple[Coords, ...] | None] = {}
    for slot in definition.parameters:
        coords = union(*(rests[n] if n.startswith("..") else (n,) for n in slot.coords))
        elem = generic if slot.elem == "float" and generic else slot.elem
        parameters[slot.name] = Node("parameter", slot.name, (), coords, elem, slot.span, name=slot.name)
        axes[slot.name] = _spread(slot.axes, rests)
    made = Instance(writer, definition, names, rests, parameters, generic)
    outputs = made.outputs(definition.outputs)
    results = [_spread(slot.axes, rests) for slot in definition.results]
    named = {id(made.done[id(n)]): name for name, n in definition.lets.items() if id(n) in made.done}
    return Flat(outputs, parameters, axes, results, writer.constraints, dict(definition.fixed), named)


def _spread(axes: tuple[Coords, ...] | None, rests: Mapping[str, Coords]) -> tuple[Coords, ...] | None:
    if axes is None:
        return None
    found: list[Coords] = []
    for axis in axes:
        found += [(n,) for n in rests[axis[0]]] if axis and axis[0].startswith("..") else [axis]
    return tuple(found)
