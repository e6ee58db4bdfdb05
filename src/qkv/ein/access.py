"""Checking accesses: ``X[..b, q, c]``, renamed, split, merged, shifted and computed indices.

Every axis is indexed by the coordinate that it was declared with, or says ``as``. A computed index is a lookup.
"""

from __future__ import annotations

from . import tree
from .graph import Coords, Node
from .lookups import Lookups
from .report import Span
from .scope import Value


class Accesses(Lookups):
    """Names and accesses."""

    def named(self, name: tree.Name) -> Node:
        """A name on its own: a scalar, a whole tensor, or a coordinate's index or size."""
        found = self.values.get(name.name)
        if found is not None:
            found.used = True
            return found.node
        if name.name in self.coordinates:
            self.used.add(name.name)
            if name.name in self.bound:
                return Node("index", name.name, (), (name.name,), "int", name.span)
            return Node("size", name.name, (), (), "int", name.span)
        return self.unknown(name.name, name.span)

    def access(self, access: tree.Access) -> Node:
        """``X[...]``: the value with its axes under the names that are written."""
        found = self.values.get(access.name)
        if found is None:
            if access.name in self.known:
                self.report.error(
                    "arity",
                    f"{access.name} is a function, and is given no arguments.",
                    access.span,
                    fix=f"{self.text(access.span)}(...)",
                )
                return self.bad(access.span)
            return self.unknown(
                access.name, access.name_span, tuple(a.name for a in access.axes if isinstance(a, tree.AxisName))
            )
        found.used = True
        if self.running is not None and access.name == self.running[0]:
            return self.recurred(access, found)
        if found.axes is None:
            self.report.error("rank", f"{access.name} is a scalar, and has no axes.", access.span, fix=access.name)
            return self.bad(access.span)
        if len(access.axes) != len(found.axes):
            return self.wrong_rank(access, found)
        return self.indexed(access, found, found.node)

    def indexed(self, access: tree.Access, found: Value, node: Node) -> Node:
        """The node with every axis indexed as it is written."""
        self.name = access.name
        renames: list[tuple[str, str]] = []
        lookups: list[tuple[str, Node]] = []
        reshaped: list[tuple[str, Coords | str, Coords | str, Span]] = []
        good = True
        for written, axis in zip(access.axes, found.axes or (), strict=True):
            good &= self.one(access, found, written, axis, renames, lookups, reshaped)
        if not good or node.bad:
            return self.bad(access.span, node.coords, node.dtype)
        return self.applied(access, node, renames, lookups, reshaped)

    def one(
        self,
        access: tree.Access,
        found: Value,
        written: tree.Axis,
        axis: Coords,
        renames: list[tuple[str, str]],
        lookups: list[tuple[str, Node]],
        reshaped: list[tuple[str, Coords | str, Coords | str, Span]],
    ) -> bool:
        """One index against the axis it stands on; what it does is added to the lists."""
        match written:
            case tree.AxisName(name, span):
                if axis == (name,):
                    self.used.add(name)
                    return True
                if name in self.values and name not in self.coordinates:
                    return self.looked_up(access, tree.Name(name, span), axis, span, lookups)
                over = self.ranges.get(name)
                if over is not None and len(axis) == 1 and over.over == axis[0] and name in self.bound:
                    renames.append((axis[0], name))
                    return True
                base = self.ranges.get(axis[0]) if len(axis) == 1 else None
                if base is not None and base.over == name:
                    self.used.add(name)
                    renames.append((axis[0], name))
                    return True
                return self.wrong_axis(access, found, name, axis, span, written)
            case tree.AxisRest(name, span):
                return axis == (name,) or self.wrong_axis(access, found, name, axis, span, written)
            case tree.AxisGroup(names, spans, span, ordered):
                if not ordered:
                    return self.no_order(access, names, axis, span)
                if axis == names:
                    self.used.update(names)
                    return True
                known = [self.knows(tree.AxisName(n, s)) for n, s in zip(names, spans, strict=True)]
                if all(known):
                    self.wrong_group(access, found, names, axis, span)
                return False
            case tree.AxisAs(old, new, span):
                return self.renaming(access, found, old, new, axis, span, renames, reshaped)
            case tree.AxisValue(value, span):
                return self.looked_up(access, value, axis, span, lookups)
            case tree.AxisRange(_, _, _, _, span):
                self.report.error(
                    "syntax", "a range belongs to what a let names, not to an access.", span, fix=access.name
                )
                return False

    def renaming(
        self,
        access: tree.Access,
        found: Value,
        old: tree.AxisName | tree.AxisGroup,
        new: tree.AxisName | tree.AxisGroup,
        axis: Coords,
        span: Span,
        renames: list[tuple[str, str]],
        reshaped: list[tuple[str, Coords | str, Coords | str, Span]],
    ) -> bool:
        """``tok as q``, ``model as (head, d)``, ``(head, d) as model``."""
        for group in (old, new):
            if isinstance(group, tree.AxisGroup) and not group.ordered:
                if isinstance(old, tree.AxisName):
                    return self.no_order(access, group.names, (old.name,), span)
                return self.no_order(access, group.names, axis, span)
        before = (old.name,) if isinstance(old, tree.AxisName) else old.names
        if axis != before:
            if isinstance(old, tree.AxisName):
                return self.wrong_axis(access, found, old.name, axis, old.span, old)
            self.wrong_group(access, found, old.names, axis, old.span)
            return False
        self.used.update(before)
        parts = (
            [new]
            if isinstance(new, tree.AxisName)
            else [tree.AxisName(n, s) for n, s in zip(new.names, new.spans, strict=True)]
        )
        known = [self.knows(part) for part in parts]
        if not all(known):
            return False
        after = tuple(part.name for part in parts)
        if len(before) == 1 and len(after) == 1:
            renames.append((before[0], after[0]))
        elif len(before) == 1:
            reshaped.append(("split", before[0], after, span))
        elif len(after) == 1:
            reshaped.append(("merge", before, after[0], span))
        else:
            renames += list(zip(before, after, strict=False))
            if len(before) != len(after):
                self.report.error(
                    "rank", f"{len(before)} coordinates are renamed to {len(after)}.", span, fix="one name for each"
                )
                return False
        return True
