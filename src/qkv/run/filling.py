"""Calls of a spec with openings that were seen before: the programs are bound to what fills them, and the core called.

A call is known by its spec, and by the shapes, strides and types of all its tensors, fillings among them: the values
of those may be other ones each time, so that programs are bound at each call and nothing of a filling is kept. This
module knows which calls that holds for: those of the quick way whose lookups cannot leave their tables. It leaves all
others alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..terms.expr import Lookup, Opening, walk
from . import quick
from .fused import Pass
from .ordinary import ordinary
from .tile_program import compiled, described, readable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from ..core import Attention, Terms
    from ..plan import Plan
    from ..spec import Spec
    from .bind import Bound
    from .tile_program import Compiled


@dataclass(slots=True)
class Filled:
    """One call: the core's object, its program with the coordinates as the core is told them, and for each table which
    opening fills it (or the library's own tensor) and whether its bounds may be learnt.
    """

    call: Attention
    program: Compiled
    coordinates: list[tuple[int, int, int, int]]
    tables: tuple[tuple[int | Tensor, bool], ...]
    wide: bool
    new: Callable[[], Tensor]
    last: tuple[tuple[int, ...], Terms] | None = None

    def terms(self, tables: list[Tensor]) -> Terms:
        """The programs over these tables. Those of the last call serve where tables lie at the same addresses and none
        was looked into, for then they hold nothing but the addresses.
        """
        if any(learn for _, learn in self.tables):
            return self.bound(tables, tables)
        addresses, last = tuple([x.data_ptr() for x in tables]), self.last
        if last is not None and last[0] == addresses:
            return last[1]
        terms = self.bound(tables, [])
        self.last = (addresses, terms)
        return terms

    def bound(self, tables: list[Tensor], held: list[Tensor]) -> Terms:
        """The programs over these tables; those ``held`` live as long as they."""
        parts = [described(x, learn) for x, (_, learn) in zip(tables, self.tables, strict=True)]
        return self.program.graph.bind(self.coordinates, parts, self.wide, held)


def signature(spec: Spec, q: Any, k: Any, v: Any, given: Sequence[Tensor], said: quick.Said) -> tuple[Any, ...] | None:
    """What the call is known by; None where it is not one for the quick way."""
    if not all(ordinary(x, x, x) for x in given):
        return None
    known = quick.signature((id(spec),), q, k, v, None, said)
    return None if known is None else (*known, *[part for x in given for part in (x.shape, x.stride(), x.dtype)])


def answer(spec: Spec, key: tuple[Any, ...], q: Tensor, k: Tensor, v: Tensor, given: Sequence[Tensor]) -> Tensor | None:
    """The output of a call that is known."""
    calls: dict[tuple[Any, ...], Filled] | None = spec.__dict__.get("_filled")
    known = None if calls is None else calls.get(key)
    if known is None:
        return None
    tables = [readable(given[at] if isinstance(at, int) else at) for at, _ in known.tables]
    terms = known.terms(tables)
    output = known.new()
    # tables that readable() made live until here
    known.call.run(q.data_ptr(), k.data_ptr(), v.data_ptr(), output.data_ptr(), terms, torch.get_num_threads())
    return output


def remember(spec: Spec, key: tuple[Any, ...], bound: Bound, plan: Plan, operands: tuple[Tensor, ...]) -> None:
    """Makes a call known after it ran, if it is one of those that can be."""
    lowered = bound.lowered
    shape = quick.repeatable(bound, plan, operands)
    if shape is None or lowered.sink is not None:
        return
    number = {opening: n for n, opening in enumerate(spec.openings)}
    if not all(table in number or table.movable for table in lowered.captured):
        return
    lookups = {n for node in lowered.nodes for n in walk(node) if isinstance(n, Lookup)}
    if not lookups or not lookups <= bound.inside:  # a lookup with the caller's indices is looked at in every call
        return
    job, program = Pass.of(bound, bound.q.dtype), compiled(bound)
    known = Filled(
        shape.signature(bound, bound.q.dtype, 0, quick.viewed(job, shape)),
        program,
        program.coordinates(bound, tuple(lowered.query_order[n] for n in shape.order)),
        tuple((number[x] if isinstance(x, Opening) else x.tensor, x in program.learnt) for x in program.tables),
        bound.working_dtype == torch.float64,
        quick.maker(bound.frame.output.shape, bound.frame.dtype),
    )
    quick.keep(spec.__dict__.setdefault("_filled", {}), key, known)
