"""Checking a whole text: signatures first, then every body, statement after statement.

Gives the definitions with their graphs and contracts. A text with mistakes still gives the definitions without.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

from . import tree
from .across import check_across, check_values
from .contract import ConflictError, Sizes
from .elems import FLOATS, fits
from .graph import Constraint, Coords, Definition, Node, Slot, union, walk
from .names import BUILT_IN
from .parser import parse
from .reader import KEEPING
from .report import Report, Source, Span, near
from .roles import Roles
from .scope import Ranged, Scope, Value
from .tokens import Tokens

STRATEGIES = ("flash", "reference", "chunked", "cpu", "sdpa", "flex", "triton", "linear", "absorbed", "ring")
"""What may stand in ``#[strategy(...)]``; ``flash`` is any fused exact one."""


@dataclass(slots=True)
class Checked:
    """A text that was read and checked: its definitions by name, and everything that was found."""

    source: Source
    report: Report
    tree: tree.Tree
    tokens: Tokens
    definitions: dict[str, Definition]
    own: tuple[str, ...]
    inputs: dict[str, Slot] = field(default_factory=dict[str, Slot])
    uses: tuple[str, ...] = ()


class Body(Roles):
    """The statements of one function, or those outside functions."""

    def target_axes(self, target: tree.Target) -> tuple[Coords, ...] | None:
        """The coordinates of each axis that a let names, ranges and first indices left out; None when one is wrong."""
        found: list[Coords] = []
        good = True
        for axis in target.axes or ():
            match axis:
                case tree.AxisName() | tree.AxisRest():
                    if self.open and isinstance(axis, tree.AxisName):
                        self.declare(axis.name, axis.span)
                    good &= self.knows(axis)
                    found.append((axis.name,))
                case tree.AxisGroup(names, spans, span, ordered):
                    if not ordered:
                        self.report.error(
                            "split-order",
                            f"nothing says which of {' and '.join(names)} is major on this axis of {target.name}.",
                            span,
                            silent="reshape takes either order; heads and features would be mixed.",
                            fix=f"({', '.join(names)}) with {names[0]} major, or ({', '.join(reversed(names))})",
                        )
                        good = False
                        continue
                    for name, where in zip(names, spans, strict=True):
                        good &= self.knows(tree.AxisName(name, where))
                    found.append(names)
                case tree.AxisRange():
                    good &= self.range(axis)
                    found.append((axis.name,))
                case tree.AxisValue(value, span):
                    if not (isinstance(value, tree.Number) and value.text.isdigit() and len(value.text) < 6):
                        self.report.error(
                            "syntax",
                            "a first index of a recurrence is a number as it is written.",
                            span,
                            fix=f"let {target.name}[0, ...] = ...;",
                        )
                        good = False
                    found.append(())
                case tree.AxisAs(_, _, span):
                    self.report.error("syntax", "what a let names is not renamed.", span, fix="the new name alone")
                    good = False
        flat = [n for a in found for n in a]
        for name in flat:
            if flat.count(name) > 1:
                self.report.error(
                    "duplicate", f"{target.name} names {name} twice.", target.span, fix="each axis its own coordinate"
                )
                return None
        return tuple(found) if good else None

    def range(self, axis: tree.AxisRange) -> bool:
        """A coordinate with a range; what it ranges over, if that is a coordinate, has its size."""
        first, last = axis.first, axis.last
        begin = (
            int(first.text)
            if isinstance(first, tree.Number) and first.text.isdigit() and len(first.text) < 10
            else None
        )
        if begin is None:
            self.report.error(
                "syntax",
                "a range begins at a number as it is written.",
                first.span,
                fix="0..T, or 1..T in a recurrence",
            )
            return False
        over: str | None = None
        if isinstance(last, tree.SizeOf):
            if not self.knows(last.coordinate):
                return False
            over = last.coordinate.name
        elif isinstance(last, tree.Name):
            if not self.knows(tree.AxisName(last.name, last.span)):
                return False
            over = last.name
        elif isinstance(last, tree.Number) and last.text.isdigit() and len(last.text) < 10:
            self.constraints.append(Constraint("fixed", (axis.name,), axis.span, int(last.text)))
        else:
            self.report.error(
                "syntax",
                "a range ends at a coordinate or a number.",
                last.span,
                fix=f"{begin}..T, T being a coordinate",
            )
            return False
        self.coordinates.setdefault(axis.name, axis.name_span)
        self.used.add(axis.name)
        self.ranges[axis.name] = Ranged(over, begin)
        if over is not None and over != axis.name:
            self.constraints.append(Constraint("equal", (axis.name, over), axis.span))
        return True

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

    def strategy(self, attributes: tuple[tree.Attribute, ...]) -> str | None:
        """The strategy that the attributes ask for."""
        found: str | None = None
        for each in attributes:
            if each.name != "strategy":
                self.report.error(
                    "strategy", f'no attribute is called "{each.name}".', each.span, fix="#[strategy(flash)]"
                )
            elif each.argument not in STRATEGIES:
                self.report.error(
                    "strategy",
                    f'no strategy is called "{each.argument}".',
                    each.argument_span,
                    sides=[f"known: {' '.join(STRATEGIES)}"],
                    fix=" or ".join(near(each.argument, STRATEGIES)) or "flash",
                )
            elif found is not None:
                self.report.error("duplicate", "two strategies are asked for.", each.span, fix="one of them")
            else:
                found = each.argument
        return found

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


def _slot_axes(scope: Scope, type_: tree.Type, owner: str) -> tuple[tuple[Coords, ...] | None, bool]:
    """The axes of a type, errors reported."""
    if type_.axes is None:
        return None, True
    found: list[Coords] = []
    good = True
    for axis in type_.axes:
        match axis:
            case tree.AxisName():
                if scope.open:
                    scope.declare(axis.name, axis.span)
                good &= scope.knows(axis)
                found.append((axis.name,))
            case tree.AxisRest(name, span):
                scope.rests.add(name)
                if any(a and a[0].startswith("..") for a in found):
                    scope.report.error(
                        "duplicate",
                        f"{owner} has two rests, and nothing says where one ends.",
                        span,
                        fix="one rest for each tensor",
                    )
                    good = False
                found.append((name,))
            case tree.AxisGroup(names, spans, span, ordered):
                if not ordered:
                    scope.report.error(
                        "split-order",
                        f"nothing says which of {' and '.join(names)} is major on this axis of {owner}.",
                        span,
                        silent="view takes either order; heads and features would be mixed.",
                        fix=f"({', '.join(names)}) with {names[0]} major, or ({', '.join(reversed(names))})",
                    )
                    good = False
                    continue
                for name, where in zip(names, spans, strict=True):
                    if scope.open:
                        scope.declare(name, where)
                    good &= scope.knows(tree.AxisName(name, where))
                found.append(names)
            case _:
                scope.report.error(
                    "syntax", "a type names coordinates, and nothing else.", axis.span, fix="[f32; ..b, q, c]"
                )
                good = False
    flat = [n for a in found for n in a]
    twice = next((n for n in flat if flat.count(n) > 1), None)
    if twice is not None:
        scope.report.error(
            "duplicate",
            f"{owner} has {twice} on two axes.",
            type_.span,
            silent="two axes of one size are two axes.",
            fix=f"{twice}_2 for one of them: each axis has its own coordinate",
        )
        good = False
    return tuple(found), good


def signature(report: Report, function: tree.Function, known: Mapping[str, Definition]) -> tuple[Definition, Scope]:
    """What a function takes and gives, before its body is looked at."""
    scope = Scope(report, known, is_open=False)
    fixed: dict[str, int] = {}
    for formal in function.coordinates:
        if formal.name in scope.coordinates:
            report.error("duplicate", f"{formal.name} stands twice among the coordinates.", formal.span, fix="once")
        scope.declare(formal.name, formal.span)
        if formal.size is not None:
            fixed[formal.name] = formal.size
            scope.constraints.append(Constraint("fixed", (formal.name,), formal.span, formal.size))
    good = True
    slots: list[Slot] = []
    for parameter in function.parameters:
        axes, fine = _slot_axes(scope, parameter.type, parameter.name)
        good &= fine
        slots.append(Slot(parameter.name, parameter.type.elem, axes, parameter.span))
        if parameter.name in scope.coordinates or any(s.name == parameter.name for s in slots[:-1]):
            report.error("duplicate", f'"{parameter.name}" names two things.', parameter.span, fix=f"{parameter.name}2")
            good = False
    results: list[Slot] = []
    allowed = set(scope.rests)
    for n, result in enumerate(function.results):
        name = "the result" if len(function.results) == 1 else f"result {n + 1}"
        for axis in result.axes or ():
            if isinstance(axis, tree.AxisRest) and axis.name not in allowed:
                good = scope.knows(axis) and good
        axes, fine = _slot_axes(scope, result, name)
        good &= fine
        results.append(Slot(name, result.elem, axes, result.span))
    scope.rests = allowed
    differ: list[tuple[str, str, Span]] = []
    for pair in function.differ:
        if scope.knows(pair.first) and scope.knows(pair.second):
            differ.append((pair.first.name, pair.second.name, pair.span))
    made = Definition(
        function.name,
        tuple(scope.coordinates),
        tuple(slots),
        tuple(results),
        function.name_span,
        fixed,
        differ,
        source=report.source,
        sound=good,
    )
    return made, scope


def _body(
    report: Report, function: tree.Function, made: Definition, scope: Scope, known: Mapping[str, Definition]
) -> None:
    """Checks a body and puts its graph and contract into the definition."""
    body = Body(report, known, is_open=False)
    body.coordinates, body.rests, body.used, body.constraints = (
        scope.coordinates,
        scope.rests,
        scope.used,
        scope.constraints,
    )
    for slot in made.parameters:
        node = Node("parameter", slot.name, (), slot.coords, slot.elem, slot.span, bad=not made.sound, name=slot.name)
        body.values[slot.name] = Value(slot.name, node, slot.axes, slot.span)
    made.strategy = body.strategy(function.attributes)
    errors = len(report.errors)
    for let in function.lets:
        body.let(let)
    if len(function.values) != len(made.results):
        if not report.errors:
            report.error(
                "arity" if function.values else "syntax",
                f"{function.name} declares {len(made.results)} result{'s' * (len(made.results) != 1)}, and "
                f"its body has {len(function.values)}.",
                function.body_span if not function.values else function.values[0].span,
                fix="an expression without a semicolon at the end"
                if not function.values
                else "one value for each result",
            )
        made.sound = False
        return
    outputs: list[Node] = []
    for slot, value in zip(made.results, function.values, strict=True):
        # What the value itself reduces is a size outside that reduction: sum[c](...) / c ** 0.5 in one expression.
        body.bound = set(slot.coords) - reduced_in(value)
        node = body.value(value)
        body.bound = set()
        node = body.shaped(node, slot.coords, slot.name, slot.span, value.span)
        if not node.bad and not fits(node.dtype, slot.elem):
            report.error(
                "dtype",
                f"{slot.name} of {function.name} is {slot.elem}, and the value is {node.dtype}.",
                value.span,
                sides=[f"{function.name} -> {slot}"],
                fix=f"({body.text(value.span)}) as {slot.elem}",
            )
            node.bad = True
        if made.strategy is not None:
            node = Node("strategy", made.strategy, (node,), node.coords, node.dtype, node.span, node.bad)
        outputs.append(node)
    _sizes(report, body)
    body.unused()
    made.outputs = tuple(outputs)
    made.constraints = body.constraints
    made.lets = {n: v.node for n, v in body.values.items()}
    made.sound = made.sound and len(report.errors) == errors and not any(n.bad for n in walk(*outputs))


def _sizes(report: Report, body: Body) -> None:
    """Reports sizes that the text itself makes disagree."""
    sizes = Sizes()
    try:
        sizes.solve([c for c in body.constraints if not any(n.startswith("..") for n in c.names)], ())
    except ConflictError as error:
        span = error.constraint.span if error.constraint is not None else (0, 0)
        report.error(
            "size-conflict",
            f"{error.name} has two sizes: {' and '.join(f'{size} ({where})' for where, size in error.seen.items())}.",
            span,
            silent="a size of 1 is broadcast; others fail when the program runs.",
            fix="one size for one coordinate, or a coordinate of its own for the other",
        )


def reduced_in(expression: object) -> set[str]:
    """The coordinates that an expression reduces anywhere by a sum or its like; softmax keeps its own."""
    found: set[str] = set()
    stack: list[object] = [expression]
    while stack:
        current = stack.pop()
        if isinstance(current, tree.Reduce) and current.operator not in KEEPING:
            found |= {axis.name for axis in current.coordinates}
        if isinstance(current, tuple) and not isinstance(current, str):
            stack += [each for each in cast("tuple[object, ...]", current) if isinstance(each, tuple)]
    return found


def _recursive(report: Report, definitions: Mapping[str, Definition], own: tuple[str, ...]) -> None:
    """Reports functions that call themselves, directly or through others."""
    calls = {
        name: list(
            dict.fromkeys((n.data.function.name, n.span) for n in walk(*d.outputs, *d.lets.values()) if n.op == "call")
        )
        for name, d in definitions.items()
    }
    state: dict[str, int] = {}
    for root in own:
        stack: list[tuple[str, int]] = [(root, 0)] if root not in state else []
        while stack:
            name, at = stack.pop()
            state[name] = 1
            if at < len(calls.get(name, ())):
                stack.append((name, at + 1))
                callee, span = calls[name][at]
                if state.get(callee) == 1:
                    report.error(
                        "recursion",
                        f"{name} calls {callee}, which calls it again.",
                        span,
                        fix="a recurrence: let h[t in 1..T, c] = ... h[t - 1, c] ...;",
                    )
                    definitions[name].sound = False
                elif callee not in state and callee in calls:
                    stack.append((callee, 0))
            else:
                state[name] = 2


def check(source: Source, library: Mapping[str, Mapping[str, Definition]] | None = None) -> Checked:
    """Reads and checks a text; ``library`` holds what ``use std::name;`` brings in."""
    report = Report(source)
    found, tokens = parse(source, report)
    definitions: dict[str, Definition] = {}
    uses: list[str] = []
    for item in found.items:
        if isinstance(item, tree.Use):
            definitions.update(_used(report, item, library or {}))
            uses.append("::".join(item.path))
    pending: list[tuple[tree.Function, Definition, Scope]] = []
    for item in found.items:
        if isinstance(item, tree.Function):
            if item.name in definitions or item.name in BUILT_IN:
                report.error("duplicate", f'"{item.name}" is defined already.', item.name_span, fix=f"{item.name}2")
                continue
            made, scope = signature(report, item, definitions)
            definitions[item.name] = made
            pending.append((item, made, scope))
    for function, made, scope in pending:
        _body(report, function, made, scope, definitions)
    own = tuple(made.name for _, made, _ in pending)
    _recursive(report, definitions, own)
    check_across(report, definitions, own)
    inputs = _outside(report, found, definitions, own)
    lets = tuple(t.name for i in found.items if isinstance(i, tree.Let) for t in i.targets if t.name in definitions)
    return Checked(source, report, found, tokens, definitions, (*own, *dict.fromkeys(lets)), inputs, tuple(uses))


def _used(report: Report, item: tree.Use, library: Mapping[str, Mapping[str, Definition]]) -> dict[str, Definition]:
    if len(item.path) < 2 or len(item.path) > 3 or item.path[0] != "std" or item.path[1] not in library:
        near_ = near(item.path[1] if len(item.path) > 1 else "", library)
        report.error(
            "unknown-name",
            f"no library is called {'::'.join(item.path)}.",
            item.span,
            sides=[f"std has {' '.join(library)}"],
            fix=f"use std::{near_[0] if near_ else next(iter(library), 'attention')};",
        )
        return {}
    whole = library[item.path[1]]
    if len(item.path) == 2:
        return dict(whole)
    if item.path[2] not in whole:
        report.error(
            "unknown-name",
            f"std::{item.path[1]} has no {item.path[2]}.",
            item.span,
            sides=[f"it has {' '.join(whole)}"],
            fix=" or ".join(near(item.path[2], whole)) or next(iter(whole)),
        )
        return {}
    return {item.path[2]: whole[item.path[2]]}


def _outside(
    report: Report, found: tree.Tree, definitions: dict[str, Definition], own: tuple[str, ...]
) -> dict[str, Slot]:
    """Checks the lets outside functions; each that has a value becomes a function of the inputs that it needs."""
    statements = [i for i in found.items if isinstance(i, tree.Let | tree.Input)]
    inputs: dict[str, Slot] = {}
    if not statements:
        return inputs
    known = dict(definitions)
    body = Body(report, known, is_open=True)
    for item in statements:
        if isinstance(item, tree.Input):
            axes, good = _slot_axes(body, item.type, item.name)
            slot = Slot(item.name, item.type.elem, axes, item.name_span)
            node = Node(
                "parameter", item.name, (), slot.coords, item.type.elem, item.name_span, bad=not good, name=item.name
            )
            body.define(tree.Target(item.name, item.name_span, (), item.span), node, axes)
            inputs.setdefault(item.name, slot)
        else:
            body.let(item)
    body.unused(frozenset(t.name for i in statements if isinstance(i, tree.Let) for t in i.targets))
    everything = {n: v.node for n, v in body.values.items()}
    check_values(report, definitions, everything.values())
    sound = not report.errors
    needed = _needed(everything.values(), list(inputs))
    for name, value in body.values.items():
        if name in inputs or name in definitions:
            continue
        slots = tuple(slot for n, slot in enumerate(inputs.values()) if needed[id(value.node)] >> n & 1)
        elem = {"int": "i64", "real": "f32"}.get(value.node.dtype, value.node.dtype)
        result = Slot("the result", elem, value.axes, value.span)
        formals = tuple(c for c in union(*(s.coords for s in slots), value.node.coords) if not c.startswith(".."))
        definitions[name] = Definition(
            name,
            formals,
            slots,
            (result,),
            value.span,
            {},
            [],
            body.constraints,
            (value.node,),
            everything,
            None,
            report.source,
            sound and not value.node.bad,
        )
    return inputs


def _needed(roots: Iterable[Node], inputs: list[str]) -> dict[int, int]:
    """The inputs that each node needs, as bits in their order: one pass over all, however many share their parts."""
    bits = {name: 1 << n for n, name in enumerate(inputs)}
    found: dict[int, int] = {}
    for node in walk(*roots):
        mine = bits.get(str(node.data), 0) if node.op == "parameter" else 0
        for arg in node.args:
            mine |= found[id(arg)]
        found[id(node)] = mine
    return found
