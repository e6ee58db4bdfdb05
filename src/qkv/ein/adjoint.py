"""Gradients of a written-out graph as a graph: from the results to the parameters, every node once.

A cotangent may lack coordinates of its value: it is then the same along them, and is multiplied by their sizes where
they are summed. What the notation cannot say is refused with ``NoGradientError``. Recurrences are swept by
``backwards``; single values by ``slopes``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from .elems import is_real
from .graph import Coords, Node, walk
from .making import Maker
from .slopes import slopes


class NoGradientError(Exception):
    """What has no gradient that the notation can say, and where it stands."""

    def __init__(self, said: str, node: Node) -> None:
        super().__init__(said)
        self.node = node


class Sweep:
    """One sweep over a graph, from cotangents of some nodes to those of ``wanted`` ones; ``stops`` are constants."""

    def __init__(
        self,
        make: Maker,
        cotangents: Mapping[int, Node],
        roots: list[Node],
        wanted: set[int],
        stops: frozenset[int] = frozenset(),
    ) -> None:
        self.make = make
        self.wanted = wanted
        self.parts: dict[int, list[Node]] = {at: [d] for at, d in cotangents.items()}
        self.totals: dict[int, Node] = {}
        nodes = list(walk(*roots))
        needs: set[int] = set()
        for node in nodes:
            if id(node) in wanted or (id(node) not in stops and any(id(a) in needs for a in node.args)):
                needs.add(id(node))
        self.needs = needs
        for node in reversed(nodes):
            if id(node) in self.parts and id(node) in needs and is_real(node.dtype):
                self.totals[id(node)] = total = self.total(node)
                if id(node) not in wanted:
                    self.spread(node, total)

    def total(self, node: Node) -> Node:
        """The cotangent of a node: all that its uses gave."""
        parts = self.parts[id(node)]
        made = parts[0]
        for each in parts[1:]:
            made = self.make.add(made, each)
        return made

    def give(self, to: Node, d: Node | None, coords: Coords) -> None:
        """A part of the cotangent of ``to``, made over ``coords``: what it lacks of them is summed away."""
        if d is None or id(to) not in self.needs or not is_real(to.dtype):
            return
        d = self.fitted(d, coords, to)
        self.parts.setdefault(id(to), []).append(d)

    def fitted(self, d: Node, coords: Coords, to: Node) -> Node:
        """``d``, which stands for a value over ``coords``, summed over those that ``to`` lacks."""
        make = self.make
        extra = tuple(c for c in coords if c not in to.coords)
        absent = [c for c in extra if c not in d.coords]
        d = make.sum(d, extra)
        for c in absent:
            if c.startswith(".."):
                raise NoGradientError(f"a value that is repeated along the rest {c} is summed over it", to)
            d = make.mul(d, make.size(c))
        return d

    def spread(self, node: Node, d: Node) -> None:
        """Gives every operand of a node its part."""
        match node.op:
            case "point":
                for arg, part in zip(node.args, slopes(self.make, node, d), strict=True):
                    self.give(arg, part, node.coords)
            case "strategy":
                self.give(node.args[0], d, node.coords)
            case "cast":
                source = node.args[0]
                if is_real(source.dtype):
                    same = d.dtype == source.dtype
                    back = d if same else self.make.node("cast", source.dtype, (d,), d.coords, source.dtype)
                    self.give(source, back, node.coords)
            case "rename":
                by = {new: old for old, new in node.data}
                source = node.args[0]
                self.give(source, self.make.rename(d, by), source.coords)
            case "only":
                self.give(node.args[0], d, node.coords)
            case "split" | "merge":
                self.reshaped(node, d)
            case "gather":
                self.gathered(node, d)
            case "concat":
                self.joined(node, d)
            case "cumsum":
                axis, source = node.data, node.args[0]
                d = self.make.expanded(d, (axis,), node)
                whole = self.make.reduce("sum", d, (axis,))
                before = self.make.node("cumsum", axis, (d,), d.coords, d.dtype)
                self.give(source, self.make.add(self.make.sub(whole, before), d), node.coords)
            case "softmax":
                self.softmax(node, d)
            case "reduce":
                self.reduced(node, d)
            case "scan":
                from .backwards import scanned

                scanned(self, node, d)
            case _:
                raise NoGradientError(f"the gradient of {node.op} is not known", node)

    # axes

    def reshaped(self, node: Node, d: Node) -> None:
        """A split's cotangent is merged, and a merge's split."""
        whole, parts = node.data
        source = node.args[0]
        if node.op == "split":
            d = self.make.expanded(d, parts, node)
            left = tuple(c for c in d.coords if c not in parts)
            self.give(source, self.make.node("merge", node.data, (d,), (whole, *left), d.dtype), source.coords)
        else:
            d = self.make.expanded(d, (whole,), node)
            coords = tuple(n for c in d.coords for n in (parts if c == whole else (c,)))
            self.give(source, self.make.node("split", node.data, (d,), coords, d.dtype), source.coords)

    def gathered(self, node: Node, d: Node) -> None:
        """Each place of the source gets what was read from it; where a condition excludes the index nothing flows."""
        make, axis = self.make, node.data
        source, at = node.args[:2]
        own = axis if axis not in node.coords and axis not in at.coords else make.fresh(axis)
        read = make.point("eq", make.index(own), at)
        coords = (*(c for c in (*node.coords, *read.coords) if c != own), own)
        place = Node("", 0, (), tuple(own if c == axis else c for c in source.coords), source.dtype)
        found = self.fitted(make.choose(read, d), tuple(dict.fromkeys(coords)), place)
        self.give(source, make.rename(found, {own: axis}), source.coords)

    def joined(self, node: Node, d: Node) -> None:
        """Each operand gets its stretch."""
        make = self.make
        into, own = node.data
        d = make.expanded(d, (into,), node)
        before: Node | None = None
        for operand, name in zip(node.args, own, strict=True):
            old, to, back = name, operand, dict[str, str]()
            if operand.op == "rename":
                back = {new: was for was, new in operand.data}
                old, to = back.pop(name, name), operand.args[0]
            here = make.index(old)
            part = make.gather(d, into, here if before is None else make.add(here, before))
            self.give(to, make.rename(part, back), to.coords)
            before = make.size(old) if before is None else make.add(before, make.size(old))

    # sums and their like

    def softmax(self, node: Node, d: Node) -> None:
        """``softmax`` and ``log_softmax``; what a mask left out has no part."""
        make = self.make
        kind, names = node.data[:2]
        source = node.args[0]
        if kind == "softmax":
            inner = make.reduce("sum", make.mul(d, node), names)
            self.give(source, make.mul(node, make.sub(d, inner)), node.coords)
            return
        d = make.expanded(d, names, node)
        inner = make.mul(make.point("exp", node), make.reduce("sum", d, names))
        seen = make.point("gt", node, make.number(-math.inf))
        self.give(source, make.choose(seen, make.sub(d, inner)), node.coords)

    def reduced(self, node: Node, d: Node) -> None:
        """Sums, means, products and the largest or smallest value."""
        make = self.make
        kind, names = node.data
        source = node.args[0]
        mask = node.args[1] if len(node.args) > 1 else None
        over = tuple(dict.fromkeys((*node.coords, *source.coords, *(() if mask is None else mask.coords))))
        match kind:
            case "sum":
                part = make.choose(mask, d)
            case "mean":
                part = make.choose(mask, make.div(d, self.count(node, mask, names)))
            case "logsumexp":
                alive = make.point("gt", node, make.number(-math.inf))
                share = make.mul(d, make.point("exp", make.sub(source, node)))
                part = make.choose(alive if mask is None else make.both(mask, alive), share)
            case "max" | "min":
                best = make.point("eq", source, node)
                best = best if mask is None else make.both(mask, best)
                ties = make.reduce("sum", make.choose(best, make.number(1)), names)
                part = make.choose(best, make.div(d, ties))
            case "prod":
                part = make.choose(mask, make.mul(d, self.others(node, mask, names)))
            case _:
                return
        self.give(source, part, over)

    def count(self, node: Node, mask: Node | None, names: Coords) -> Node:
        """How many values a mean was taken of, at least 1."""
        make = self.make
        masked = () if mask is None else tuple(n for n in names if n in mask.coords)
        made = make.number(1)
        for name in names:
            if name.startswith("..") and name not in masked:
                return self.counted(node, mask, names)
            if name not in masked:
                made = make.mul(made, make.size(name))
        if mask is None:
            return made
        kept = make.reduce("sum", make.choose(mask, make.number(1)), masked)
        return make.point("max", make.mul(made, kept), make.number(1))

    def counted(self, node: Node, mask: Node | None, names: Coords) -> Node:
        """The same by counting, where a rest has no size of its own."""
        make, source = self.make, node.args[0]
        one = make.point("select", make.point("eq", source, source), make.number(1), make.number(1))
        kept = make.reduce("sum", make.choose(mask, one), names)
        return make.point("max", kept, make.number(1))

    def others(self, node: Node, mask: Node | None, names: Coords) -> Node:
        """For each value of a product the product of all the others, right where some are 0."""
        make, source = self.make, node.args[0]
        if any(n.startswith("..") for n in names):
            raise NoGradientError("the gradient of prod over a rest needs its indices, and a rest has none", node)
        copies = {n: make.fresh(n) for n in names}
        other = make.rename(source, copies)
        differ: Node | None = None
        for name, copy in copies.items():
            apart = make.point("ne", make.index(copy), make.index(name))
            differ = apart if differ is None else make.point("or", differ, apart)
        if mask is not None and differ is not None:
            differ = make.both(make.rename(mask, copies), differ)
        factor = make.choose(differ, other, make.number(1))
        return make.reduce("prod", factor, tuple(copies.values()))
