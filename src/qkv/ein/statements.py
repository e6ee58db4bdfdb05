"""Checking statements: every ``let`` against its value, and recurrences against themselves.

A name stands for one value; a coordinate that nothing declares or reduces has size 1 or is a mistake.
"""

from __future__ import annotations

from . import tree
from .elems import FLOATS, fits
from .graph import Constraint, Coords, Node
from .names import BUILT_IN
from .report import Span
from .scope import Ranged, Value
from .targets import Targets


class Body(Targets):
    """The statements of one function, or those outside functions."""

    def let(self, let: tree.Let) -> None:
        """One statement."""
        strategy = self.strategy(let.attributes)
        if len(let.targets) > 1:
            self.several(let, strategy)
            return
        target = next(iter(let.targets))
        axes = self.target_axes(target)
        names = () if axes is None else tuple(n for a in axes for n in a)
        repeated = self.values.get(target.name)
        ranged = next((a for a in target.axes or () if isinstance(a, tree.AxisRange)), None)
        recurrence = repeated is not None and bool(repeated.bases) and ranged is not None
        self.bound = set(names)
        if recurrence and repeated is not None and ranged is not None:
            self.recurrence(let, target, axes, ranged, repeated)
            self.bound = set()
            return
        if ranged is not None and self.ranges.get(ranged.name, Ranged(None, 0)).first != 0:
            self.report.error(
                "recursion",
                f"{target.name} has no value at 0.",
                ranged.span,
                fix=f"let {target.name}[0, ...] = ...; before",
            )
            axes = None
        value = self.value(let.value)
        self.bound = set()
        first = next((a for a in target.axes or () if isinstance(a, tree.AxisValue)), None)
        if first is not None and axes is not None:
            self.base(target, axes, first, value, names)
            return
        if axes is None:
            value = self.bad(let.value.span, names or value.coords, value.dtype)
            axes = tuple((c,) for c in value.coords)
        elif not self.open or target.axes is not None:
            value = self.shaped(value, names, target.name, target.span, let.value.span)
        if strategy is not None:
            value = Node("strategy", strategy, (value,), value.coords, value.dtype, let.span, value.bad)
        self.define(target, value, axes if target.axes is not None else None)

    def define(self, target: tree.Target, value: Node, axes: tuple[Coords, ...] | None) -> None:
        """One more value under its name."""
        if (
            target.name in self.values
            or target.name in self.coordinates
            or target.name in BUILT_IN
            or target.name in self.known
        ):
            self.report.error(
                "duplicate", f'"{target.name}" already names something else.', target.name_span, fix=f"{target.name}2"
            )
            if target.name in self.values:
                return
        self.values[target.name] = Value(target.name, value, axes, target.name_span)

    def shaped(self, value: Node, names: Coords, name: str, span: Span, where: Span) -> Node:
        """The value with exactly the declared coordinates, in their order."""
        if value.bad:
            return Node(value.op, value.data, value.args, names or value.coords, value.dtype, value.span, bad=True)
        has = set(value.coords)
        lacking = [n for n in names if n not in has]
        extra = [c for c in value.coords if c not in names]
        if lacking:
            one = f"{extra[0]} as {lacking[0]}" if len(extra) == len(lacking) == 1 else ""
            self.report.error(
                "unbound-coordinate",
                f"{name} declares {', '.join(lacking)}, which the expression does not have.",
                span,
                sides=[self.side(name, names), self.side(self.describe(value), value.coords)],
                silent="a missing axis is broadcast.",
                fix=one or f"leave {', '.join(lacking)} out, or an expression with it",
            )
            return self.bad(where, names, value.dtype)
        if not extra:
            return value
        rests = [c for c in extra if c.startswith("..")]
        listed = ", ".join(extra)
        said = f"the expression has {listed}, which {name} neither declares nor reduces"
        sides = [self.side(name, names), self.side(self.describe(value), value.coords)]
        fix = f"sum[{listed}](...) or mean[{listed}](...), or declare {listed}"
        if rests:
            self.report.error(
                "free-coordinate", f"{said}.", where, sides=sides, fix=fix, silent="an axis too many is broadcast on."
            )
            return self.bad(where, names, value.dtype)
        fixed = {c.names[0]: c.number for c in self.constraints if c.kind == "fixed"}
        for coordinate in extra:
            if fixed.get(coordinate, 1) != 1:
                self.report.error(
                    "free-coordinate",
                    f"{said}, and {coordinate} has size {fixed[coordinate]}.",
                    where,
                    sides=sides,
                    fix=fix,
                    silent="an axis too many is broadcast on.",
                )
                return self.bad(where, names, value.dtype)
        self.report.warning(
            "free-coordinate",
            f"{said}: {listed} must have size 1.",
            where,
            sides=sides,
            silent="a size of 1 is broadcast against any other.",
            fix=f"{fix}; only[{listed}](...) says that it is meant",
        )
        self.constraints += [Constraint("free", (c,), where) for c in extra]
        return Node("only", tuple(extra), (value,), tuple(c for c in value.coords if c in names), value.dtype, where)

    def several(self, let: tree.Let, strategy: str | None) -> None:
        """``let (a[..], b[..]) = f(...)``."""
        shapes = [self.target_axes(target) for target in let.targets]
        self.bound = set()
        if not isinstance(let.value, tree.Call):
            self.report.error(
                "arity", "several names need a call with as many results.", let.value.span, fix="one let for each"
            )
            nodes = []
        else:
            nodes = self.called(let.value)
            if len(nodes) != len(let.targets):
                self.report.error(
                    "arity",
                    f"{len(let.targets)} names are given, and {let.value.name} has {len(nodes)} results.",
                    let.value.span,
                    fix="one name for each result",
                )
                nodes = []
        for n, (target, axes) in enumerate(zip(let.targets, shapes, strict=True)):
            names = () if axes is None else tuple(c for a in axes for c in a)
            node = nodes[n] if nodes and axes is not None else self.bad(let.value.span, names)
            node = self.shaped(node, names, target.name, target.span, let.value.span)
            if strategy is not None:
                node = Node("strategy", strategy, (node,), node.coords, node.dtype, let.span, node.bad)
            self.define(target, node, axes if target.axes is not None else None)

    def base(
        self, target: tree.Target, axes: tuple[Coords, ...], first: tree.AxisValue, value: Node, names: Coords
    ) -> None:
        """``let h[0, c] = ...;``."""
        at = int(first.value.text) if isinstance(first.value, tree.Number) else 0
        if not (value.op == "number" and not value.coords and not value.bad):
            value = self.shaped(value, names, target.name, target.span, value.span)
        found = self.values.get(target.name)
        if found is None:
            self.define(target, value, axes)
            found = self.values[target.name]
        elif not found.bases or at in found.bases:
            self.report.error(
                "duplicate", f'"{target.name}" already names something else.', target.name_span, fix=f"{target.name}2"
            )
            return
        found.bases[at] = value

    def recurrence(
        self, let: tree.Let, target: tree.Target, axes: tuple[Coords, ...] | None, ranged: tree.AxisRange, found: Value
    ) -> None:
        """``let h[t in 1..T, c] = f(h[t - 1, c]);``."""
        time = ranged.name
        first = self.ranges[time].first if time in self.ranges else None
        if axes is None or first is None:
            return
        if first != len(found.bases) or set(found.bases) != set(range(first)):
            self.report.error(
                "recursion",
                f"{target.name} begins at {first}, and values are given for {sorted(found.bases)}.",
                ranged.span,
                fix=f"{time} in {len(found.bases)}.. , and one value for each index before",
            )
            found.bases = {}
            return
        names = tuple(n for a in axes for n in a)
        others = tuple(n for n in names if n != time)
        bases = [found.bases[n] for n in range(first)]
        dtype = next((b.dtype for b in bases if b.op != "number"), bases[0].dtype)
        if dtype in ("int", "real"):
            floats = {v.node.dtype for v in self.values.values() if v.node.dtype in FLOATS}
            dtype = next(iter(floats)) if len(floats) == 1 else "float" if "float" in floats else "f32"
        self.values[target.name] = Value(
            target.name,
            Node("self", (target.name, 0), (), others, dtype, target.span),
            axes,
            target.name_span,
            used=found.used,
        )
        self.running = (target.name, time)
        body = self.value(let.value)
        self.running = None
        body = (
            self.shaped(body, others, target.name, target.span, let.value.span)
            if time not in body.coords
            else self.shaped(body, names, target.name, target.span, let.value.span)
        )
        bad = body.bad or any(b.bad for b in bases)
        if not bad and not fits(body.dtype, dtype):
            self.report.error(
                "dtype",
                f"{target.name} begins as {dtype} and goes on as {body.dtype}.",
                let.value.span,
                fix=f"(...) as {dtype}",
            )
            bad = True
        node = Node("scan", (target.name, time, first), (*bases, body), names, dtype, let.span, bad)
        self.values[target.name] = Value(target.name, node, axes, target.name_span)

    def unused(self, skip: frozenset[str] = frozenset()) -> None:
        """Warnings for what nothing uses."""
        for value in self.values.values():
            if not value.used and value.name not in skip and not value.name.startswith("_"):
                self.report.warning(
                    "unused", f"{value.name} is never used.", value.span, fix=f"take it out, or call it _{value.name}"
                )
        for name, span in self.coordinates.items():
            if name not in self.used and not self.open:
                self.report.warning(
                    "unused", f"the coordinate {name} is never used.", span, fix="take it out of the brackets"
                )
