"""Checking signatures: coordinates, parameters, results, before any body is looked at."""

from __future__ import annotations

from collections.abc import Mapping

from . import tree
from .graph import Constraint, Coords, Definition, Slot
from .report import Report, Span
from .scope import Scope


def slot_axes(scope: Scope, type_: tree.Type, owner: str) -> tuple[tuple[Coords, ...] | None, bool]:
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
        axes, fine = slot_axes(scope, parameter.type, parameter.name)
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
        axes, fine = slot_axes(scope, result, name)
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
        readable=good,
    )
    return made, scope
