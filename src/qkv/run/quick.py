"""Calls seen before, straight to the compiled core: for small problems, whose time is that of the way to the kernel.

A call is known by the identity of its parts, and by the shapes, strides and types of its tensors. What is remembered
is the core's object for the signature; nothing is planned, bound or checked again, for nothing of it could turn out
otherwise. This module knows which calls that holds for: without gradients, transforms, captured tensors, rotations or
options, on plain tensors. All others it leaves alone.
"""

from __future__ import annotations

import atexit
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..plan import Plan, forced
from ..terms.weights import Sigmoid, Softmax
from .fused import FEW_ROWS, Pass, output_like
from .ordinary import ordinary
from .signature import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from ..core import Attention, Terms
    from .bind import Bound

REMEMBERED = 1024
"""How many calls are remembered; the oldest is forgotten first."""

_empty = torch.empty
_threads = torch.get_num_threads


@dataclass(slots=True)
class Known:
    """One call: the core's object, its terms, the output's shape and type; ``parts`` are kept alive, so that no other
    object takes their identity.
    """

    call: Attention
    terms: Terms | None
    shape: tuple[int, ...]
    dtype: torch.dtype
    parts: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Alias:
    """What a call is known by, and the objects whose identities are in it."""

    key: tuple[Any, ...]
    parts: tuple[object, ...]


_known: dict[tuple[Any, ...], Known] = {}
atexit.register(_known.clear)  # before the core goes, which counts what it made


def signature(
    parts: tuple[object, ...], q: Any, k: Any, v: Any, scale: object = None, align: str | None = None
) -> tuple[Any, ...] | None:
    """What the call is known by; None where it is not one for the quick way. ``parts`` are the spec or its parts."""
    if not ordinary(q, k, v):
        return None
    tensors = (q.shape, k.shape, v.shape, q.stride(), k.stride(), v.stride(), q.dtype, k.dtype, v.dtype)
    # 1.0 == True, and True is no scale
    return (*map(id, parts), *tensors, forced(), align, scale, type(scale))


def answer(key: tuple[Any, ...], q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
    """The output of a call that is known."""
    known = _known.get(key)
    if known is None:
        return None
    output = _empty(known.shape, dtype=known.dtype)
    known.call.run(q.data_ptr(), k.data_ptr(), v.data_ptr(), output.data_ptr(), known.terms, _threads())
    return output


def remember(name: Alias, other: Alias | None, bound: Bound, plan: Plan, operands: tuple[Tensor, ...]) -> None:
    """Makes a call known after it ran, if it is one of those that can be."""
    lowered, spec = bound.lowered, bound.spec
    if (
        plan.strategy != "cpu"
        or bound.want
        or bound.dropout
        or spec.position is not None
        or not isinstance(spec.weights, Softmax | Sigmoid)
        or lowered.sink is not None
        or lowered.captured
        or lowered.projections
        or lowered.row_table is not None
        or len(lowered.value_features) != 1
        or any(x.data_ptr() != y.data_ptr() for x, y in zip((bound.q, bound.k, bound.v), operands, strict=True))
    ):
        return
    job, shape = Pass.of(bound, bound.q.dtype), Shape.of(bound, bound.q, bound.v)
    if shape.is_empty or (shape.num_rows <= FEW_ROWS and not bound.k.stride(-1) == bound.v.stride(-1) == 1):
        return
    views = {
        "q": shape.by_row(bound.q, True),
        "k": shape.by_key(bound.k),
        "v": shape.by_key(bound.v),
        "out": shape.by_row(output_like(job, shape, bound.q.dtype), True),
    }
    call = shape.signature(bound, bound.q.dtype, 0, views)
    parts = (*name.parts, *(() if other is None else other.parts))
    known = Known(call, job.terms(shape)[1], bound.frame.output.shape, bound.frame.dtype, parts)
    for each in (name, other):
        if each is not None:
            if len(_known) >= REMEMBERED:
                _known.pop(next(iter(_known)), None)
            _known[each.key] = known
