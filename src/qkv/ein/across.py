"""Attention's roles where a call stands between its parts: weights made by one function and summed by another.

Of each definition a small picture is kept: its results with what it calls put in, down to a bounded number of nodes.
A call is checked on the picture of what it calls, its arguments put in, so that checking stays linear in the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .calls import Called
from .graph import Coords, Definition, Node, walk
from .report import Report, Span
from .roles import Roles

_SHOWN = 48
"""How many nodes a picture has; what lies deeper is a leaf of it."""

_OPEN = frozenset({"point", "cast", "strategy", "softmax", "reduce", "call"})
_LEAVES = frozenset({"number", "index", "size", "parameter"})


Calls = Mapping[str, list[tuple[Definition, Span]]]
"""What each definition of a text calls, and where."""


def calls_of(definitions: Mapping[str, Definition], own: Iterable[str]) -> Calls:
    """What the definitions call, each once."""
    return {
        name: list({id(n.data.function): (n.data.function, n.span) for n in definitions[name].calls}.values())
        for name in own
    }


def check_across(report: Report, definitions: Mapping[str, Definition], calls: Calls) -> None:
    """Reports wrong roles that only a call and what it calls show together."""
    for name in _callees_first(calls):
        definition = definitions[name]
        if not definition.sound or not calls[name]:
            continue
        for function, _ in calls[name]:
            _draw(function)
        errors = len(report.found)
        check_values(report, definitions, (*definition.outputs, *definition.lets.values()))
        definition.sound = len(report.found) == errors


def _draw(function: Definition) -> None:
    """Makes the picture of a function that is called; those of what it calls are there, for they were visited first."""
    if function.sound and not function.picture:
        pictures = Pictures()
        function.picture = tuple(pictures.of(o, o.span) for o in function.outputs)


def check_values(report: Report, definitions: Mapping[str, Definition], values: Iterable[Node]) -> None:
    """Reports wrong roles in values."""
    pictures = Pictures()
    roles = Roles(report, definitions, is_open=False)
    for node in walk(*values):
        if not node.bad:
            _check(roles, pictures, node)


def _check(roles: Roles, pictures: Pictures, node: Node) -> None:
    if node.op == "call":
        _draw(node.data.function)
        if _pictured(node.data):
            for each in walk(pictures.of(node, node.span)):
                if each.op == "reduce" and each.data[0] == "sum":
                    roles.roles(each)
    elif node.op == "reduce" and node.data[0] == "sum" and pictures.calls(node):
        roles.roles(pictures.of(node, node.span))


def _pictured(called: Called) -> bool:
    return called.number < len(called.function.picture)


def _callees_first(calls: Calls) -> list[str]:
    order: list[str] = []
    seen: set[str] = set()
    for root in calls:
        stack = [(root, False)]
        while stack:
            name, done = stack.pop()
            if done:
                order.append(name)
            elif name not in seen:
                seen.add(name)
                stack.append((name, True))
                stack += [(f.name, False) for f, _ in calls[name] if f.name in calls]
    return order


class Pictures:
    """Pictures of single values."""

    def __init__(self) -> None:
        self.count = 0

    def shown(self, root: Node) -> set[int]:
        """The nodes next below ``root`` that a picture shows."""
        found, at = [root], 0
        seen = {id(root)}
        while at < len(found) and len(found) < _SHOWN:
            node = found[at]
            at += 1
            if node.op in _OPEN:
                new = [a for a in node.args if id(a) not in seen]
                seen.update(map(id, new))
                found += new
        return {id(n) for n in found}

    def calls(self, root: Node) -> bool:
        """Whether a call is among what a picture shows."""
        shown = self.shown(root)
        stack, seen = [root], {id(root)}
        while stack:
            node = stack.pop()
            if node.op == "call" and _pictured(node.data):
                return True
            new = [a for a in node.args if id(a) in shown and id(a) not in seen] if node.op in _OPEN else []
            seen.update(map(id, new))
            stack += new
        return False

    def of(self, root: Node, span: Span) -> Node:
        """The picture of a value, every part of it at one place."""
        made = self.copied(root, self.shown(root), span, {})
        # calls that were put in may have made it larger than a picture is
        return self.copied(made, self.shown(made), span, {})

    def copied(self, node: Node, shown: set[int], span: Span, done: dict[int, Node]) -> Node:
        """What is shown of a node; the rest of it as leaves."""
        found = done.get(id(node))
        if found is not None:
            return found
        if node.op in _LEAVES:
            made = node
        elif id(node) not in shown or node.op not in _OPEN or (node.op == "call" and not _pictured(node.data)):
            made = Node("leaf", None, (), node.coords, node.dtype, span, name=node.name)
        else:
            args = tuple(self.copied(a, shown, span, done) for a in node.args)
            if node.op == "call":
                made = self.put_in(node.data, args, span)
            else:
                made = Node(node.op, node.data, args, node.coords, node.dtype, span, name=node.name)
        done[id(node)] = made
        return made

    def put_in(self, called: Called, args: tuple[Node, ...], span: Span) -> Node:
        """The picture of a called function's result, in the caller's coordinates."""
        function, binding = called.function, called.binding
        inside: dict[str, str] = {}
        for formal in function.results[called.number].coords:
            if not formal.startswith(".."):
                inside[formal] = binding.renamed.get(formal, binding.names[formal])
        for formal, actual in binding.names.items():
            if formal not in inside:  # two coordinates of the function that are one here stay two
                inside[formal] = self.fresh(formal) if actual in inside.values() else actual
        given: dict[str, Node] = {}
        for slot, arg in zip(function.parameters, args, strict=True):
            changed = {
                binding.names[f]: inside[f]
                for f in slot.coords
                if not f.startswith("..") and binding.names[f] != inside[f]
            }
            given[slot.name] = self.mapped(arg, changed, {}, {}, span, own=False) if changed else arg
        return self.mapped(function.picture[called.number], inside, binding.rests, given, span, own=True)

    def fresh(self, name: str) -> str:
        """A coordinate that nothing else has."""
        self.count += 1
        return f"{name.split('.')[0]}.r{self.count}"

    def mapped(
        self,
        root: Node,
        names: dict[str, str],
        rests: Mapping[str, Coords],
        given: Mapping[str, Node],
        span: Span,
        *,
        own: bool,
    ) -> Node:
        """A picture in other coordinates, its parameters replaced; with ``own`` every other coordinate is its own."""

        def one(name: str) -> str:
            if own and name not in names:
                names[name] = self.fresh(name)
            return names.get(name, name)

        def every(coords: Coords) -> Coords:
            found: dict[str, None] = {}
            for c in coords:
                found.update(dict.fromkeys(rests.get(c, (c,)) if c.startswith("..") else (one(c),)))
            return tuple(found)

        done: dict[int, Node] = {}
        for node in walk(root):
            if node.op == "parameter" and node.data in given:
                done[id(node)] = given[node.data]
                continue
            data = node.data
            if node.op in ("index", "size"):
                data = one(data)
            elif node.op in ("reduce", "softmax"):
                data = (data[0], every(data[1]), *data[2:])
            args = tuple(done[id(a)] for a in node.args)
            done[id(node)] = Node(node.op, data, args, every(node.coords), node.dtype, span, name=node.name)
        return done[id(root)]
