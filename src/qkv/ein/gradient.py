"""The gradients of a definition as another definition of the notation, to be read, checked and run like any.

Takes the parameters of the definition and a cotangent for each result, and gives the gradient of each parameter that
holds real numbers.
"""

from __future__ import annotations

from ..errors import EinError
from .adjoint import NoGradientError, Sweep
from .elems import fits, is_real
from .graph import Coords, Definition, Node, Slot, walk
from .inline import Flat, with_rests
from .making import Maker
from .module import Callable_
from .printer import printed
from .tree import Tree
from .written import Outline, Written


def gradients(function: Callable_) -> list[str]:
    """The lines of a function ``NAME_gradients`` in Einlang: parameters and cotangents in, gradients out.

    Everything is covered but ``prod`` over a rest, recurrences that read more than one step back or reshape what they
    made before, and definitions without real parameters or results: those raise ``EinError``.

    >>> import qkv
    >>> text = "fn f[i, j](A: [f32; i, j], x: [f32; j]) -> [f32; i] { sum[j](A[i, j] * x[j]) }"
    >>> print("\\n".join(qkv.ein.gradients(qkv.ein.source(text).f)))
    fn f_gradients[i, j](A: [f32; i, j], x: [f32; j], d_out: [f32; i]) -> ([f32; i, j], [f32; j]) {
        let d_A[i, j] = d_out[i] * x[j];
        let d_x[j] = sum[i](d_out[i] * A[i, j]);
        (d_A, d_x)
    }
    """
    definition = function.definition
    wanted = [s for s in definition.parameters if is_real(s.elem)]
    asked = [n for n, s in enumerate(definition.results) if is_real(s.elem)]
    if not wanted or not asked:
        what = "parameter" if not wanted else "result"
        raise EinError(
            f"{definition.name} has no gradients: no {what} of it holds real numbers.\n    {function.__doc__}\n"
            f"  Give it a {what} of f32 or float."
        )
    flat = with_rests(definition)
    try:
        return _program(definition, flat, wanted, asked)
    except NoGradientError as error:
        span = error.node.span
        text = function.source.text[slice(*span)] if span[1] <= len(function.source.text) else definition.name
        raise EinError(
            f"the gradients of {definition.name} cannot be written: {error}.\n    {' '.join(text.split())[:80]}\n"
            "  torch's autograd differentiates every definition: call it, and backward() on its result."
        ) from None


def _program(definition: Definition, flat: Flat, wanted: list[Slot], asked: list[int]) -> list[str]:
    make = Maker()
    names = {p.name for p in definition.parameters}
    slots: list[Slot] = []
    cotangents: dict[int, Node] = {}
    for n in asked:
        result = definition.results[n]
        called = "d_out" if len(definition.results) == 1 else f"d_out{n + 1}"
        while called in names:
            called += "_"
        slots.append(Slot(called, result.elem, result.axes, result.span))
        given = Node("parameter", called, (), result.coords, result.elem)
        out = flat.outputs[n]
        cotangents[id(out)] = make.add(cotangents[id(out)], given) if id(out) in cotangents else given
    sweep = Sweep(make, cotangents, flat.outputs, {id(flat.parameters[s.name]) for s in wanted})
    named = dict(flat.named)
    orders: dict[int, Coords] = {}
    for node in walk(*flat.outputs):
        total = sweep.totals.get(id(node))
        if total is not None and total.op != "parameter":
            if id(node) in flat.named:
                named.setdefault(id(total), f"d_{flat.named[id(node)]}")
            if set(total.coords) == set(node.coords):
                orders[id(total)] = node.coords
    outputs: list[Node] = []
    for slot in wanted:
        own = flat.parameters[slot.name]
        total = sweep.totals.get(id(own), make.number(0))
        total = make.expanded(total, own.coords, own)
        if not fits(total.dtype, slot.elem):
            total = make.node("cast", slot.elem, (total,), total.coords, slot.elem)
        if total.op not in ("parameter", "number"):
            named[id(total)] = f"d_{slot.name}"
            orders[id(total)] = own.coords
        outputs.append(total)
    outline = Outline(
        f"{definition.name}_gradients",
        [*definition.parameters, *slots],
        wanted_results(wanted),
        {**{c.names[0]: c.number for c in flat.constraints if c.kind == "fixed"}, **flat.fixed},
        {**_ranges(flat), **make.ranges},
        [(a, b) for a, b, _ in definition.differ],
        named,
        orders,
        definition.formals,
    )
    function = Written(outline, outputs).function()
    return printed(Tree((function,))).rstrip("\n").split("\n")


def wanted_results(wanted: list[Slot]) -> list[Slot]:
    """The gradients' types: those of the parameters."""
    return [Slot(f"d_{s.name}", s.elem, s.axes, s.span) for s in wanted]


def _ranges(flat: Flat) -> dict[str, str]:
    """What the step of each recurrence ranges over: a coordinate, or a number."""
    found: dict[str, str] = {}
    for node in walk(*flat.outputs):
        if node.op != "scan":
            continue
        time = node.data[1]
        ends = [c for c in flat.constraints if c.names[0] == time and c.kind in ("equal", "fixed")]
        found[time] = next((c.names[1] if c.kind == "equal" else str(c.number) for c in ends), time)
    return found
