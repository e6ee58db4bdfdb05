"""Computed indices: ``X[t - 1]``, ``X[0]``, ``table[T[q]]``, and what a recurrence reads of itself.

An index that is seen to leave its axis is an error unless a condition excludes it; what is only known at the call is
looked at there. Messages about wrong axes stand here too, for both kinds of index give them.
"""

from __future__ import annotations

from . import tree
from .elems import INTS
from .graph import Constraint, Coords, Node, union
from .report import Span, near
from .scope import SILENT, Scope, Value, axis_names


class Lookups(Scope):
    """Indices that are computed, and an access put together."""

    def value(self, expression: tree.Expr) -> Node:
        """The node of an expression; the layer above knows them all."""
        raise NotImplementedError(str(expression))

    def unknown(self, name: str, span: Span, coords: Coords = ()) -> Node:
        """Reports a name that nothing declares."""
        known = [*self.values, *self.coordinates]
        close = near(name, known)
        self.report.error(
            "unknown-name",
            f'nothing is called "{name}".',
            span,
            sides=[f"tensors: {' '.join(self.values) or 'none'}"],
            fix=" or ".join(close) if close else f"let {name}[..] = ...; before",
        )
        return self.bad(span, coords)

    def wrong_rank(self, access: tree.Access, found: Value) -> Node:
        """Reports a wrong number of indices."""
        axes = found.axes or ()
        self.report.error(
            "rank",
            f"{access.name} has {len(axes)} ax{'is' if len(axes) == 1 else 'es'}, and {len(access.axes)} "
            f"{'is' if len(access.axes) == 1 else 'are'} indexed.",
            access.span,
            sides=[f"{access.name}: [{axis_names(axes)}]"],
            silent="missing axes are taken whole, and broadcast.",
            fix=f"{access.name}[{axis_names(axes)}]",
        )
        return self.bad(access.span, union(*axes))

    def wrong_axis(
        self,
        access: tree.Access,
        found: Value,
        name: str,
        axis: Coords,
        span: Span,
        written: tree.AxisName | tree.AxisRest,
    ) -> bool:
        """Reports an index that is not the axis's coordinate."""
        if not self.knows(written):
            return False
        shown = axis[0] if len(axis) == 1 else f"({', '.join(axis)})"
        swapped = any(isinstance(a, tree.AxisName) and a.name == shown for a in access.axes)
        right = f"{access.name}[{axis_names(found.axes)}]"
        renamed = f"{shown} as {name}" if not name.startswith("..") and not shown.startswith("..") else ""
        self.report.error(
            "wrong-coordinate",
            f"{access.name} has {shown} on this axis, and {name} indexes it.",
            span,
            sides=[
                self.side(access.name, [axis_names((a,)) for a in found.axes or ()]),
                f"given: {self.text(access.span)}",
            ],
            silent="an axis has no name; " + SILENT,
            fix=right
            if swapped or not renamed
            else f"{right}, or {renamed} if {shown} is meant to be called {name} here",
        )
        return False

    def wrong_group(self, access: tree.Access, found: Value, names: Coords, axis: Coords, span: Span) -> None:
        """Reports a merged index on an axis that is another one."""
        shown = axis[0] if len(axis) == 1 else f"({', '.join(axis)})"
        said = f"({', '.join(names)})"
        if sorted(names) == sorted(axis):
            headline = f"{access.name} merges {shown}, {axis[0]} major, and {said} would read it with {names[0]} major."
            fix = f"{access.name}[{axis_names(found.axes)}]"
        else:
            headline = f"{access.name} has {shown} on this axis, and {said} indexes it."
            fix = (
                f"{shown} as {said} to split it, {names[0]} major"
                if len(axis) == 1
                else f"{access.name}[{axis_names(found.axes)}]"
            )
        self.report.error(
            "wrong-coordinate",
            headline,
            span,
            sides=[f"{access.name}: [{axis_names(found.axes)}]"],
            silent="view splits in either order.",
            fix=fix,
        )

    def no_order(self, access: tree.Access, names: Coords, axis: Coords, span: Span) -> bool:
        """Reports a split or a merge that does not say which part is major."""
        prefix = f"{axis[0]} as " if len(axis) == 1 and axis[0] not in names else ""
        self.report.error(
            "split-order",
            f"nothing says which of {' and '.join(names)} is major on this axis of {access.name}.",
            span,
            silent="view and reshape take either order; heads and features would be mixed.",
            fix=f"{prefix}({', '.join(names)}) with {names[0]} major, or {prefix}({', '.join(reversed(names))})",
        )
        return False

    def looked_up(
        self, access: tree.Access, value: tree.Expr, axis: Coords, span: Span, lookups: list[tuple[str, Node]]
    ) -> bool:
        """A computed index."""
        names = self.product(value)
        if names is not None and len(names) > 1 and all(n in self.coordinates for n in names):
            return self.no_order(access, names, axis, span)
        index = self.value(value)
        if index.bad:
            return False
        if len(axis) != 1 or axis[0].startswith(".."):
            self.report.error(
                "rank",
                f"a rest or a merged axis of {access.name} cannot be indexed by one number.",
                span,
                fix=f"{access.name}[{axis_names((axis,))}] and a split before",
            )
            return False
        if index.dtype not in INTS:
            self.report.error(
                "dtype",
                f"an index is a whole number, and this is {index.dtype}.",
                span,
                fix=f"floor({self.text(span)}) as i64",
            )
            return False
        if not self.guards and not self.stays_inside(access, value, axis[0], span):
            return False
        lookups.append((axis[0], index))
        return True

    def product(self, value: tree.Expr) -> Coords | None:
        """The names of a product of names; None for anything else."""
        if isinstance(value, tree.Name):
            return (value.name,)
        if isinstance(value, tree.Binary) and value.operator == "*":
            left, right = self.product(value.left), self.product(value.right)
            return None if left is None or right is None else (*left, *right)
        return None

    def stays_inside(self, access: tree.Access, value: tree.Expr, axis: str, span: Span) -> bool:
        """Whether nothing shows that the index leaves the axis; reports ``out-of-range`` where something does."""
        shift, name = 0, ""
        match value:
            case tree.Unary("-", tree.Number(text)) if text.isdigit():
                shift = -int(text)
            case tree.Binary("-", tree.Name(name), tree.Number(text)) if text.isdigit():
                shift = -int(text)
            case tree.Binary("+", tree.Name(name), tree.Number(text)) if text.isdigit():
                shift = int(text)
            case _:
                return True
        if name and (name not in self.bound or name in self.values):
            return True
        ranged = self.ranges.get(name)
        first = 0 if ranged is None else ranged.first
        if name and shift > 0 and ranged is None and name == axis:
            said = f"{name} + {shift} leaves {axis} where {name} is {axis} - 1"
            guard = f"if {name} + {shift} < size[{axis}] {{ {self.text(access.span)} }} else {{ 0 }}"
        elif shift < 0 and first is not None and first + shift < 0:
            said = f"the index is {first + shift} where {name} is {first}" if name else f"the index is {shift}"
            guard = (
                f"if {name} >= {-shift} {{ {self.text(access.span)} }} else {{ 0 }}"
                if name
                else f"size[{axis}] - {-shift}"
            )
        else:
            return True
        self.report.error(
            "out-of-range",
            f"an index of {access.name} leaves its axis: {said}.",
            span,
            silent="a negative index counts from the end.",
            fix=guard,
        )
        return False

    def applied(
        self,
        access: tree.Access,
        node: Node,
        renames: list[tuple[str, str]],
        lookups: list[tuple[str, Node]],
        reshaped: list[tuple[str, Coords | str, Coords | str, Span]],
    ) -> Node:
        """The node with lookups, splits, merges and renamings applied, in this order."""
        guards = [*self.started(lookups), *self.guards]
        guard = guards[-1] if len(guards) == 1 else self.both(guards) if guards else None
        made, lookups = self.apart(access, node, lookups, guard)
        for axis, index in lookups:
            left = tuple(c for c in made.coords if c != axis)
            args = (made, index) if guard is None else (made, index, guard)
            made = Node("gather", axis, args, union(left, index.coords), made.dtype, access.span)
        for kind, old, new, span in reshaped:
            if kind == "split":
                whole, parts = str(old), tuple(new)
                coords = tuple(n for c in made.coords for n in (parts if c == whole else (c,)))
                made = Node("split", (whole, parts), (made,), coords, made.dtype, access.span)
            else:
                whole, parts = str(new), tuple(old)
                at = made.coords.index(parts[0])
                coords = tuple(c for c in (*made.coords[:at], whole, *made.coords[at:]) if c not in parts)
                made = Node("merge", (whole, parts), (made,), coords, made.dtype, access.span)
            self.constraints.append(Constraint("product", (whole, *parts), span))
        changed = [(old, new) for old, new in renames if old != new]
        if changed:
            by = dict(changed)
            coords = tuple(by.get(c, c) for c in made.coords)
            made = Node("rename", tuple(changed), (made,), coords, made.dtype, access.span, name=self.text(access.span))
            for old, new in changed:
                over = self.ranges.get(new)
                base = self.ranges.get(old)
                ranged = (over is not None and over.over == old) or (base is not None and base.over == new)
                if new != self.joining and not ranged:
                    self.constraints.append(Constraint("equal", (old, new), access.span))
        twice = next((c for c in made.coords if made.coords.count(c) > 1), None)
        if twice is not None:
            self.report.error(
                "duplicate",
                f"{twice} indexes two axes of {access.name}.",
                access.span,
                silent="it would take the diagonal or mix axes.",
                fix=f"another name for one of them: {twice} as other",
            )
            return self.bad(access.span, union(made.coords), made.dtype)
        if made is node:
            return node
        made.name = made.name or self.text(access.span)
        return made

    def started(self, lookups: list[tuple[str, Node]]) -> list[Node]:
        """Inside a recurrence an index may rely on the first step: nothing is looked up before it."""
        time = "" if self.running is None else self.running[1]
        first = self.ranges[time].first if time in self.ranges else None
        if not first or not any(time in index.coords for _, index in lookups):
            return []
        here = Node("index", time, (), (time,), "int", lookups[0][1].span)
        begin = Node("number", first, (), (), "int", here.span)
        return [Node("point", "ge", (here, begin), (time,), "bool", here.span)]

    def apart(
        self, access: tree.Access, node: Node, lookups: list[tuple[str, Node]], guard: Node | None
    ) -> tuple[Node, list[tuple[str, Node]]]:
        """Looked-up axes under names of their own where another index or a condition speaks of the coordinate.

        In ``X[I[c], c - 1]`` the c of the first index is the result's, and not the axis that the second one reads.
        """
        renamed: dict[str, str] = {}
        for n, (axis, _) in enumerate(lookups):
            others = [index.coords for m, (_, index) in enumerate(lookups) if m != n]
            others += [guard.coords] if guard is not None and len(lookups) > 1 else []
            if any(axis in coords for coords in others):
                renamed[axis] = f"{axis}.{access.span[0]}"
        if not renamed:
            return node, lookups
        self.constraints += [Constraint("equal", pair, access.span) for pair in renamed.items()]
        coords = tuple(renamed.get(c, c) for c in node.coords)
        made = Node("rename", tuple(renamed.items()), (node,), coords, node.dtype, access.span, name=node.name)
        return made, [(renamed.get(axis, axis), index) for axis, index in lookups]

    def both(self, guards: list[Node]) -> Node:
        """All of the conditions together."""
        made = guards[0]
        for each in guards[1:]:
            made = Node("point", "and", (made, each), union(made.coords, each.coords), "bool", each.span)
        return made

    def recurred(self, access: tree.Access, found: Value) -> Node:
        """``h[t - 1, c]`` inside the definition of ``h``."""
        axes = found.axes or ()
        if len(access.axes) != len(axes):
            return self.wrong_rank(access, found)
        time = self.running[1] if self.running is not None else ""
        shift = 0
        good = True
        for written, axis in zip(access.axes, axes, strict=True):
            if axis == (time,):
                match written:
                    case tree.AxisValue(tree.Binary("-", tree.Name(name), tree.Number(text)), _) if (
                        name == time and text.isdigit() and len(text) < 6
                    ):
                        shift = int(text)
                    case _:
                        shift = 0
                if shift < 1:
                    self.report.error(
                        "recursion",
                        f"{access.name} is read where it is not yet made.",
                        written.span,
                        fix=f"{access.name}[{time} - 1, ...]",
                    )
                    good = False
            elif not (isinstance(written, tree.AxisName | tree.AxisRest) and (written.name,) == axis):
                if isinstance(written, tree.AxisName):
                    self.wrong_axis(access, found, written.name, axis, written.span, written)
                else:
                    self.report.error(
                        "recursion",
                        f"{access.name} is read here with its own coordinates alone.",
                        written.span,
                        fix=axis[0],
                    )
                good = False
        coords = tuple(c for axis in axes for c in axis if c != time)
        first = self.ranges[time].first
        if good and first is not None and shift > first:
            self.report.error(
                "out-of-range",
                f"{access.name}[{time} - {shift}] leaves its axis where {time} is {first}.",
                access.span,
                fix=f"{time} - {first}" if first else "a first value: let h[0, c] = ...;",
            )
            good = False
        return Node("self", (access.name, shift), (), coords, found.node.dtype, access.span, bad=not good)
