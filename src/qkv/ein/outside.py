"""Checking the lets outside functions: each that has a value is a function of the inputs that it needs."""

from __future__ import annotations

from collections.abc import Iterable

from . import tree
from .across import check_values
from .graph import Definition, Node, Slot, union, walk
from .report import Report
from .signatures import slot_axes
from .statements import Body


def check_outside(
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
            axes, good = slot_axes(body, item.type, item.name)
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
