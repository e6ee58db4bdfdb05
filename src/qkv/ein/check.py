"""Checking a whole text: signatures first, then every body, statement after statement.

Gives the definitions with their graphs and contracts. A text with mistakes still gives the definitions without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from . import tree
from .across import Calls, calls_of, check_across
from .contract import ConflictError, Sizes
from .elems import fits
from .graph import Definition, Node, Slot, walk
from .names import BUILT_IN
from .outside import check_outside
from .parser import parse
from .reader import KEEPING
from .report import Report, Source, near
from .scope import Scope, Value
from .signatures import signature
from .statements import Body
from .tokens import Tokens


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
    calls = calls_of(definitions, own)
    _recursive(report, definitions, calls)
    check_across(report, definitions, calls)
    inputs = check_outside(report, found, definitions, own)
    lets = tuple(t.name for i in found.items if isinstance(i, tree.Let) for t in i.targets if t.name in definitions)
    return Checked(source, report, found, tokens, definitions, (*own, *dict.fromkeys(lets)), inputs, tuple(uses))


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
    made.calls = tuple(body.calls)
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


def _recursive(report: Report, definitions: Mapping[str, Definition], calls: Calls) -> None:
    """Reports functions that call themselves, directly or through others."""
    state: dict[str, int] = {}
    for root in calls:
        stack: list[tuple[str, int]] = [(root, 0)] if root not in state else []
        while stack:
            name, at = stack.pop()
            state[name] = 1
            if at < len(calls.get(name, ())):
                stack.append((name, at + 1))
                function, span = calls[name][at]
                callee = function.name
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
