"""One pass of the compiled core over a call, and its backward, as one differentiable function.

The forward keeps inputs, output and lse; the backward makes scores again inside the core. Gradients of sinks and value
tables are a few sums by row, taken here. This module knows what the core is given and what comes back; it refuses to
know which calls go to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch

from ..terms.derivative import lookups_of
from ..terms.expr import Apply, Captured, Index, Kind, Node, Size, captured_in
from ..terms.weights import Sigmoid
from .backward import Seen, check_unchanged, no_second_derivative, versions
from .finite import is_transformed
from .recompute import summed_to
from .scores import outside_error
from .signature import Shape, address
from .stored import placed, plain
from .tile_program import compiled

if TYPE_CHECKING:
    from torch import Tensor

    from ..core import Terms
    from .bind import Bound

FEW_ROWS = 8
"""So few rows read keys where they lie, in the order in which they lie there (csrc/kernel/forward.h)."""

STATISTICS = ("max_logit", "entropy", "argmax")


@dataclass(slots=True)
class Pass:
    """One call for the core, whose output has elements of type ``dtype``. ``captured`` are the float tables of the
    score, in the order in which a pass gets them.
    """

    bound: Bound
    dtype: torch.dtype
    captured: tuple[Captured, ...]
    statistics: tuple[str, ...]
    versions: Seen

    @staticmethod
    def of(bound: Bound, dtype: torch.dtype) -> Pass:
        """The pass of a bound call."""
        captured = captured_by_score(bound)
        stats = tuple(n for n in STATISTICS if n in bound.want)
        return Pass(bound, dtype, captured, stats, versions(bound))

    def reading(self, tables: Sequence[Tensor]) -> Pass:
        """The pass with these tensors as its captured tables."""
        if not tables:
            return self
        given = {**self.bound.tables, **dict(zip(self.captured, tables, strict=True))}
        return replace(self, bound=replace(self.bound, tables=given))

    @property
    def has_lse(self) -> bool:
        """Whether rows are divided by a sum of exponentials."""
        return not isinstance(self.bound.spec.weights, Sigmoid)

    def terms(self, shape: Shape, gradients: Sequence[Captured] | None = None) -> tuple[Any, Terms | None]:
        """The programs of the call's graphs; None where there are none or no pair to run them on."""
        lowered = self.bound.lowered
        if shape.is_empty or (lowered.keep is None and lowered.score is None and lowered.row_table is None):
            return None, None
        program = compiled(self.bound, gradients)
        return program, program.bind(self.bound, [lowered.query_order[n] for n in shape.order])


def captured_by_score(bound: Bound) -> tuple[Captured, ...]:
    """The float tables of the call's score."""
    node = bound.lowered.score
    return () if node is None else tuple(c for c in captured_in(node) if c.kind is Kind.FLOAT)


def fused(
    job: Pass, q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None, rows: Tensor | None, tables: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
    """Output, lse (None for sigmoid weights) and the wanted statistics, in canonical layout."""
    given = [x for x in (q, k, v, sink, rows, *tables) if x is not None]
    if (torch.is_grad_enabled() and any(x.requires_grad for x in given)) or any(map(is_transformed, given)):
        found = cast("tuple[Tensor, ...]", _apply(job, q, k, v, sink, rows, *tables))
    else:  # an autograd function costs more than a short call
        found = forward(job.reading(tables), Shape.of(job.bound, q, v), q, k, v, sink, rows)
    return found[0], found[1] if job.has_lse else None, dict(zip(job.statistics, found[3:], strict=True))


class Fused(torch.autograd.Function):
    """Forward and backward of one attention inside the core. What it returns after output and lse has no gradient."""

    @staticmethod
    def forward(
        job: Pass, q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None, rows: Tensor | None, *tables: Tensor
    ) -> Any:
        return forward(job.reading(tables), Shape.of(job.bound, q, v), q, k, v, sink, rows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        job, q, k, v, sink, rows, *tables = inputs
        out, lse, buckets, *stats = output
        ctx.job = job
        ctx.save_for_backward(q, k, v, sink, rows, out, lse, buckets, *tables)
        ctx.mark_non_differentiable(buckets, *stats, *(() if job.has_lse else (lse,)))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - torch names no arguments
        q, k, v, sink, rows, output, lse, buckets, *tables = ctx.saved_tensors
        needed = tuple(ctx.needs_input_grad[1:])
        if grads[0] is None and grads[1] is None:
            return (None,) * len(ctx.needs_input_grad)
        check_unchanged(ctx.job.versions)
        grad = torch.zeros_like(output) if grads[0] is None else grads[0]
        found = _derive(ctx.job, needed, grad, grads[1], output, lse, buckets, q, k, v, sink, rows, *tables)
        return (None, *found)

    @staticmethod
    def vmap(info: Any, in_dims: Any, job: Pass, q: Any, k: Any, v: Any, *learned: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - as above
        """A stack of calls is one call with one more axis before the shared ones; one by one where tables differ."""
        if any(dim is not None for dim in in_dims[4:]):
            return _one_by_one(_apply, info.batch_size, in_dims, (job, q, k, v, *learned))
        base = 1 + len(job.bound.lowered.shared)
        most = q.dim() - base - len(job.bound.lowered.query_order) - (in_dims[1] is not None)
        q, k, v = (_stacked(x, dim, info.batch_size) for x, dim in zip((q, k, v), in_dims[1:4], strict=True))
        lead = v.dim() - 1 - base - len(job.bound.lowered.key)
        for _ in range(most - lead):  # maps of differential weights share their values
            v = v.unsqueeze(1).expand(v.shape[0], q.shape[1], *v.shape[1:])
        found = _apply(job, q, k, v, *learned)
        return found, (0,) * len(found)


class Derive(torch.autograd.Function):
    """The gradients of ``Fused``, which have none themselves."""

    @staticmethod
    def forward(job: Pass, needed: tuple[bool, ...], *given: Any) -> Any:
        grad, grad_lse, output, lse, buckets, q, k, v, sink, rows, *tables = given
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            job = job.reading(tables)
            shape = Shape.of(job.bound, q, v)
            found = gradients(
                job, shape, (q, k, v), (sink, rows, tables), (output, lse, buckets), (grad, grad_lse), needed
            )
        return tuple(found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - torch names no arguments
        raise no_second_derivative("cpu")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *given: Any) -> Any:
        """Gradients of each call by itself: what several calls learn together must not be added up here."""
        return _one_by_one(_derive, info.batch_size, in_dims, given)


def _stacked(x: Tensor, dim: int | None, count: int) -> Tensor:
    return x.expand(count, *x.shape) if dim is None else x.movedim(dim, 0)


def _one_by_one(call: Callable[..., Any], count: int, in_dims: Sequence[Any], given: Sequence[Any]) -> Any:
    """The results of ``count`` calls, stacked in front."""
    dims = [dim if isinstance(dim, int) else None for dim in in_dims]
    calls = [
        call(*(x if dim is None else x.select(dim, n) for x, dim in zip(given, dims, strict=True)))
        for n in range(count)
    ]
    results = tuple(None if parts[0] is None else torch.stack(parts) for parts in zip(*calls, strict=True))
    return results, tuple(None if x is None else 0 for x in results)


def forward(
    job: Pass, shape: Shape, q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None, rows: Tensor | None
) -> tuple[Tensor, ...]:
    """Output, lse, normalised sums by row of the value table (empty without one), and statistics."""
    bound = job.bound
    if bound.stored is not None:
        keys = placed(shape, *bound.stored)
    else:
        if shape.num_rows <= FEW_ROWS:  # the same bits, however features lie
            k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (k, v))
        keys = plain(shape, k, v)
    dtype = bound.working_dtype
    by_row = shape.rows
    output = output_like(job, shape, job.dtype)
    lse = torch.empty(by_row, dtype=dtype)
    stats = [torch.empty(by_row, dtype=torch.int64 if n == "argmax" else dtype) for n in job.statistics]
    num_buckets = 0 if rows is None or shape.is_empty else rows.shape[0]
    buckets = None if rows is None else torch.zeros(*by_row, rows.shape[0], dtype=dtype)
    views = {
        **keys.views,
        "q": shape.by_row(q, True),
        "out": shape.by_row(output, True),
        "lse": shape.by_row(lse, False),
    }
    if sink is not None:
        sink = sink.to(dtype).expand(by_row)
        views["sink"] = shape.by_row(sink, False)
    if buckets is not None:
        views["buckets"] = shape.by_row(buckets, True)
    program, terms = job.terms(shape)
    found = dict(zip(job.statistics, stats, strict=True))
    outside = shape.signature(
        bound, q.dtype, num_buckets, views, key_element=keys.element, placing=keys.placing, out=job.dtype
    ).forward(
        **keys.addresses,
        q=q.data_ptr(),
        out=output.data_ptr(),
        sink=address(sink),
        lse=lse.data_ptr() if job.has_lse else 0,
        level=address(found.get("max_logit")),
        entropy=address(found.get("entropy")),
        argmax=address(found.get("argmax")),
        buckets=address(buckets) if num_buckets else 0,
        terms=terms,
        dropout=bound.dropout,
        seed=bound.seed,
        num_threads=torch.get_num_threads(),
    )
    if outside >= 0:
        raise outside_error(program.lookups[outside])
    if buckets is not None and rows is not None:
        output += buckets @ rows.to(dtype)
    return (output, lse, lse.new_empty((*lse.shape, 0)) if buckets is None else buckets, *stats)


def output_like(job: Pass, shape: Shape, dtype: torch.dtype) -> Tensor:
    """Room for an output, canonical axes over the layout that the pattern asks for."""
    lowered = job.bound.lowered
    canonical = (*lowered.shared, *lowered.query_order)
    features = [n for axis in lowered.pattern.output.axes for n in axis.names if n in lowered.value_features]
    flat = [n for axis in lowered.pattern.output.axes for n in axis.names]
    if len(features) != 1 or shape.lead:
        return torch.empty(*shape.rows, shape.value_size, dtype=dtype)
    sizes = dict(zip(canonical, (*shape.shared, *shape.query_order), strict=True)) | {features[0]: shape.value_size}
    room = torch.empty([sizes[n] for n in flat], dtype=dtype)
    return room.permute([flat.index(n) for n in (*canonical, features[0])])


def gradients(
    job: Pass,
    shape: Shape,
    operands: tuple[Tensor, Tensor, Tensor],
    learned: tuple[Tensor | None, Tensor | None, Sequence[Tensor]],
    saved: tuple[Tensor, Tensor, Tensor],
    incoming: tuple[Tensor, Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of q, k, v, the sink, the value table and the score's tables, in this order; None where not needed."""
    bound = job.bound
    (q, k, v), (sink, rows, tables), (output, lse, buckets) = operands, learned, saved
    grad, grad_lse = incoming
    dtype = bound.working_dtype
    wide = grad = grad.to(dtype)
    delta = (wide * output.to(dtype)).sum(-1)
    if grad_lse is not None and job.has_lse:
        delta = delta - grad_lse
    dq, dk = (torch.empty_like(x) if n else None for x, n in zip((q, k), needed, strict=False))
    dv = torch.empty((*shape.lead, *shape.shared, *shape.keys, shape.value_size), dtype=v.dtype) if needed[2] else None
    wanted = tuple(c for c, n in zip(job.captured, needed[5:], strict=True) if n)
    program, terms = job.terms(shape, wanted)
    sums = {c: torch.zeros(t.shape, dtype=dtype) for c, t in zip(job.captured, tables, strict=True) if c in wanted}
    places: Sequence[Tensor | None] = [] if program is None else [sums.get(c) for c in program.tables]
    places = [*places, *([None] * (0 if program is None else len(program.given)))]
    num_buckets = 0 if rows is None or shape.is_empty else rows.shape[0]
    by_bucket = None if rows is None else wide @ rows.to(dtype).transpose(0, 1)
    views = {
        "q": shape.by_row(q, True),
        "k": shape.by_key(k),
        "v": shape.by_key(v),
        "grad": shape.by_row(grad, True),
        "lse": shape.by_row(lse, False),
    }
    delta = delta.contiguous()
    for name, x, by_key in (("dq", dq, False), ("dk", dk, True), ("dv", dv, True), ("buckets", by_bucket, False)):
        if x is not None:
            views[name] = shape.by_key(x) if by_key else shape.by_row(x, True)
    shape.signature(bound, q.dtype, num_buckets, views, grad=grad.dtype).backward(
        q=q.data_ptr(),
        k=k.data_ptr(),
        v=v.data_ptr(),
        grad=grad.data_ptr(),
        lse=lse.data_ptr() if job.has_lse else 0,
        delta=delta.data_ptr() if job.has_lse else 0,
        bucket_grad=address(by_bucket) if num_buckets else 0,
        dq=address(dq),
        dk=address(dk),
        dv=address(dv),
        table_grads=[address(x) for x in places],
        table_sizes=[0 if x is None else x.numel() for x in places],
        tables_apart=not shape.lead and apart(job, wanted),
        terms=terms,
        dropout=bound.dropout,
        seed=bound.seed,
        num_threads=torch.get_num_threads(),
    )
    d_v = None if dv is None else summed_to(dv, v.shape)
    d_sink = None if sink is None or not needed[3] else sink_gradient(sink, lse, delta)
    d_rows = None
    if rows is not None and needed[4]:
        d_rows = (buckets.flatten(0, -2).transpose(0, 1) @ wide.flatten(0, -2)).to(rows.dtype)
    of_tables = [sums[c].to(t.dtype) if c in sums else None for c, t in zip(job.captured, tables, strict=True)]
    return [dq, dk, d_v, d_sink, d_rows, *of_tables]


def sink_gradient(sink: Tensor, lse: Tensor, delta: Tensor) -> Tensor:
    """The sink's share times ``-delta``, summed over the axes that the sink lacks; no share in a row without keys."""
    share = torch.where(lse == -math.inf, 0.0, torch.exp(sink - torch.where(lse == -math.inf, 0.0, lse)))
    return summed_to(-share * delta, sink.shape)


def apart(job: Pass, wanted: Sequence[Captured]) -> bool:
    """Whether every lookup in the tables that need a gradient has all shared coordinates as indices of its own, so that
    different shared elements read different elements.
    """
    bound = job.bound
    if bound.lowered.score is None:
        return False
    shared = {n for n in bound.lowered.shared if bound.frame.sizes[n] > 1}
    for table in wanted:
        for lookup in lookups_of(bound.lowered.score, table):
            if not shared <= {n for index in lookup.indices for n in _counted(index)}:
                return False
    return True


def _counted(index: Node) -> tuple[str, ...]:
    """The coordinates of an index that merges them, major to minor (``Scope.flat``); none for any other."""
    if isinstance(index, Index):
        return (index.coordinate,)
    if not isinstance(index, Apply) or index.operation != "add":
        return ()
    major, minor = index.operands
    if not isinstance(minor, Index) or not isinstance(major, Apply) or major.operation != "mul":
        return ()
    if major.operands[1] != Size(minor.coordinate):
        return ()
    found = _counted(major.operands[0])
    return (*found, minor.coordinate) if found else ()


_apply: Callable[..., Any] = Fused.apply  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
_derive: Callable[..., Any] = Derive.apply  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
