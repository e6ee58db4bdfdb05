"""Calls seen before, straight to the compiled core: for small problems, whose time is that of the way to the kernel.

A call is known by the identity of its parts, and by the shapes, strides and types of its tensors. What is remembered
is the core's object for the signature; nothing is planned, bound or checked again, for nothing of it could turn out
otherwise. This module knows which calls that holds for: without gradients, transforms, rotations or options beside
those that say where elements stand, on plain tensors. A spec that captures tensors keeps its calls itself, so that
they live no longer than it, and a captured tensor that was written to since makes them unknown. All other calls are
left alone.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch

from ..plan import Plan, forced
from ..terms.weights import Sigmoid, Softmax
from .backward import Seen, versions
from .fused import FEW_ROWS, Pass, output_like
from .ordinary import ordinary
from .scores import by_row
from .signature import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from ..core import Attention, Terms
    from ..spec import Spec
    from .bind import Bound

REMEMBERED = 1024
"""How many calls are remembered; the oldest is forgotten first."""

_threads = torch.get_num_threads
_grad = torch.is_grad_enabled


@dataclass(slots=True)
class Known:
    """One call: the core's object, its terms, what makes its output; ``parts`` are kept alive, so that no other
    object takes their identity.
    """

    call: Attention
    terms: Terms | None
    new: Callable[[], Tensor]
    parts: tuple[object, ...]
    captured: Reading | None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a call reads beside q, k and v: tensors as they were, and the sink by row. ``learns``: a gradient of some
    tensor is wanted where gradients are recorded.
    """

    seen: Seen
    learns: bool
    sink: Tensor | None


@dataclass(frozen=True, slots=True)
class Alias:
    """What a call is known by, and the objects whose identities are in it."""

    key: tuple[Any, ...]
    parts: tuple[object, ...]


Memory = dict[tuple[Any, ...], Known]

_known: Memory = {}
atexit.register(_known.clear)  # before the core goes, which counts what it made


def memory(spec: Spec) -> Memory:
    """Where the spec's calls are remembered."""
    return spec.__dict__.get("_calls", _known)


Said = tuple[object, ...]


def said_by(options: Mapping[str, Any]) -> Said | None:
    """What options say of where elements stand, if they say nothing else: how queries and keys are aligned, and
    coordinates' first positions.
    """
    align, positions = options.get("align"), options.get("positions")
    if align is not None and type(align) is not str:
        return None
    for name, value in options.items():
        if (
            value is None
            or name in ("align", "positions")
            or (name == "dropout" and type(value) is float and not value)
        ):
            continue
        return None
    if positions is None:
        return () if align is None else (align,)
    if type(positions) is not dict:
        return None
    first = cast("dict[Any, Any]", positions)
    if any(type(name) is not str or type(at) is not int for name, at in first.items()):
        return None
    return (align, *first.items())


def signature(
    who: tuple[int, ...], q: Any, k: Any, v: Any, scale: object = None, said: Said = ()
) -> tuple[Any, ...] | None:
    """What the call is known by; None where it is not one for the quick way. ``who``: the identities of the spec, or
    of its parts.
    """
    if not ordinary(q, k, v):
        return None
    shapes, strides = (q.shape, k.shape, v.shape), (q.stride(), k.stride(), v.stride())
    # 1.0 == True, and True is no scale
    return (who, shapes, strides, q.dtype, k.dtype, v.dtype, forced(), scale, type(scale), said)


def answer(key: tuple[Any, ...], q: Tensor, k: Tensor, v: Tensor, known_calls: Memory = _known) -> Tensor | None:
    """The output of a call that is known."""
    known = known_calls.get(key)
    if known is None:
        return None
    reading = known.captured
    if reading is not None:
        return _reading_answer(known_calls, key, known, reading, q, k, v)
    output = known.new()
    known.call.run(q.data_ptr(), k.data_ptr(), v.data_ptr(), output.data_ptr(), known.terms, _threads())
    return output


def _reading_answer(
    known_calls: Memory, key: tuple[Any, ...], known: Known, reading: Reading, q: Tensor, k: Tensor, v: Tensor
) -> Tensor | None:
    if reading.learns and _grad():
        return None
    for _, tensor, version in reading.seen:
        if tensor._version != version:
            known_calls.pop(key, None)
            return None
    output = known.new()
    known.call.forward(  # a lookup that leaves its table did so in the first call, which was not remembered then
        q=q.data_ptr(),
        k=k.data_ptr(),
        v=v.data_ptr(),
        out=output.data_ptr(),
        sink=0 if reading.sink is None else reading.sink.data_ptr(),
        terms=known.terms,
        num_threads=_threads(),
    )
    return output


def remember(name: Alias, other: Alias | None, bound: Bound, plan: Plan, operands: tuple[Tensor, ...]) -> None:
    """Makes a call known after it ran, if it is one of those that can be."""
    lowered, spec = bound.lowered, bound.spec
    reads = lowered.sink is not None or bool(lowered.captured)
    shape = repeatable(bound, plan, operands)
    if shape is None or bound.given:
        return
    seen = versions(bound)
    if len(seen) != len(lowered.captured):  # a tensor of inference mode does not say when it is written to
        return
    job = Pass.of(bound, bound.q.dtype)
    views = viewed(job, shape)
    sink = None if lowered.sink is None else by_row(bound, lowered.sink, bound.working_dtype)
    if sink is not None:
        sink = sink.detach().to(bound.working_dtype).expand(shape.rows)
        views["sink"] = shape.by_row(sink, False)
    call = shape.signature(bound, bound.q.dtype, 0, views)
    terms = job.terms(shape)[1]
    reading = None
    if reads:
        reading = Reading(seen, any(x.requires_grad for _, x, _ in seen), sink)
    parts = () if reads else (*name.parts, *(() if other is None else other.parts))
    known = Known(call, terms, maker(bound.frame.output.shape, bound.frame.dtype), parts, reading)
    if reads:  # the spec holds them: with the spec among their parts they would hold each other
        keep(spec.__dict__.setdefault("_calls", {}), name.key, known)
        return
    for each in (name, other):
        if each is not None:
            keep(_known, each.key, known)


def is_plain(bound: Bound, plan: Plan) -> bool:
    """Whether ``cpu`` runs the call in one pass over q, k and v as they are given: without dropout, rotations, mapped
    features or tables of vectors.
    """
    lowered, spec = bound.lowered, bound.spec
    return (
        plan.strategy == "cpu"
        and not bound.dropout
        and spec.position is None
        and isinstance(spec.weights, Softmax | Sigmoid)
        and not lowered.projections
        and lowered.row_table is None
        and len(lowered.value_features) == 1
    )


def repeatable(bound: Bound, plan: Plan, operands: tuple[Tensor, ...]) -> Shape | None:
    """The shape of a call that the core can be given again with other addresses alone; None of any other call."""
    tensors = zip((bound.q, bound.k, bound.v), operands, strict=True)
    if bound.want or not is_plain(bound, plan) or any(x.data_ptr() != y.data_ptr() for x, y in tensors):
        return None
    shape = Shape.of(bound, bound.q, bound.v)
    if shape.is_empty or (shape.num_rows <= FEW_ROWS and not bound.k.stride(-1) == bound.v.stride(-1) == 1):
        return None
    return shape


def viewed(job: Pass, shape: Shape) -> dict[str, Any]:
    """How the core walks through the operands and the output of such a call."""
    bound = job.bound
    return {
        "q": shape.by_row(bound.q, True),
        "k": shape.by_key(bound.k),
        "v": shape.by_key(bound.v),
        "out": shape.by_row(output_like(job, shape, bound.q.dtype), True),
    }


def maker(shape: Sequence[int], dtype: torch.dtype) -> Callable[[], Tensor]:
    """What makes a new tensor of the shape, its elements in order: given strides, torch takes half its time."""
    return partial(torch.empty_strided, tuple(shape), torch.empty(*shape, device="meta").stride(), dtype=dtype)


def keep(calls: dict[tuple[Any, ...], Any], key: tuple[Any, ...], known: object) -> None:
    """Remembers a call, and forgets the oldest where there are many."""
    if len(calls) >= REMEMBERED:
        calls.pop(next(iter(calls)), None)
    calls[key] = known
