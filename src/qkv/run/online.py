"""Online sums over blocks of scores, with a backward that makes the scores again.

One pass serves softmax (running maximum and rescaling; Milakov and Gimelshein 2018, Dao et al. 2022), sigmoid and plain
sums. This module knows one block at a time: its product, its mask, its terms and their derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from ..errors import InternalError
from ..terms.expr import Captured, Kind, captured_in
from ..terms.weights import Sigmoid
from . import dropout, finite
from .backward import Seen, check_unchanged, recomputing, versions
from .layout import packed
from .scores import changed, kept, rows_read

if TYPE_CHECKING:
    from torch import Tensor

    from .bind import Bound
    from .blocks import Blocking

Range = dict[str, tuple[int, int]]


@dataclass(slots=True)
class Job:
    """What the passes over one call share: the call, its blocks, the kind of sums, and the tables that terms read.

    ``captured`` are the float tables of the score, in the order in which the pass gets them; only those can have
    gradients.
    """

    bound: Bound
    blocking: Blocking
    kind: Literal["softmax", "sigmoid", "plain"]
    normalize: bool
    captured: tuple[Captured, ...] = ()
    statistics: tuple[str, ...] = ()
    tables: dict[Captured, Tensor] = field(default_factory=dict[Captured, "Tensor"])
    versions: Seen = ()

    def __post_init__(self) -> None:
        node = self.bound.lowered.score
        self.captured = () if node is None else tuple(c for c in captured_in(node) if c.kind is Kind.FLOAT)
        self.statistics = tuple(n for n in ("max_logit", "entropy", "argmax") if n in self.bound.want)
        self.versions = versions(self.bound)

    @property
    def branches(self) -> int:
        """How many leading axes q and k have before the shared ones: 1 for differential weights, else 0."""
        return self.bound.q.dim() - 1 - self.rows

    def rowwise(self, x: Tensor, ranges: Range) -> Tensor:
        """A block ``[shared..., rows]`` of a tensor over shared and query-only axes, some of size 1."""
        names = (*self.bound.lowered.shared, *self.bound.lowered.query_order)
        whole = x.broadcast_to([self.bound.frame.sizes[n] for n in names])
        return self.queries(whole.unsqueeze(-1), ranges).squeeze(-1)

    @property
    def rows(self) -> int:
        """How many axes of a score are not key axes."""
        return len(self.bound.lowered.shared) + len(self.bound.lowered.query_order)

    def queries(self, x: Tensor, ranges: Range) -> Tensor:
        """A block of rows ``[branch..., shared..., rows, last]`` of a tensor over shared, query-only and one axis."""
        shared, count = len(self.bound.lowered.shared), len(self.bound.lowered.query_order)
        return self.flat(
            self.cut(x, ranges, (*self.bound.lowered.shared, *self.bound.lowered.query_order)), shared, count
        )

    def keys(self, x: Tensor, ranges: Range) -> Tensor:
        """A block of keys ``[branch..., shared..., keys, last]`` of a tensor over shared, key and one more axis."""
        shared, count = len(self.bound.lowered.shared), len(self.bound.lowered.key)
        return self.flat(self.cut(x, ranges, (*self.bound.lowered.shared, *self.bound.lowered.key)), shared, count)

    def read(self, which: int, x: Tensor, ranges: Range) -> Tensor:
        """A block of keys (0) or values (1) as ``keys`` makes it, from ``x`` or from where a cache stores them."""
        if self.bound.stored is None:
            return self.keys(x, ranges)
        stored, lowered = self.bound.stored[which], self.bound.lowered
        name = self.blocking.shared
        within = None if name is None or name not in ranges else (lowered.shared.index(name), *ranges[name])
        first, last = ranges.get(lowered.key[0], (0, stored.count))
        rows = self.bound.split(which, stored.part(first, last, within)).to(self.bound.working_dtype)
        return self.flat(rows, len(lowered.shared), 1)

    def cut(self, x: Tensor, ranges: Range, names: tuple[str, ...]) -> Tensor:
        """The part of ``x`` within ``ranges``; ``names`` are its axes but for leading branches and the last one."""
        lead = x.dim() - 1 - len(names)
        for name, (start, stop) in ranges.items():
            if name in names:
                x = x.narrow(lead + names.index(name), start, stop - start)
        return x

    def flat(self, x: Tensor, shared: int, count: int) -> Tensor:
        """The ``count`` axes before the last one as one, packed."""
        if count == 0:
            return packed(x.unsqueeze(-2))
        return packed(x if count == 1 else x.flatten(-1 - count, -2))

    def sizes(self, ranges: Range) -> list[int]:
        """The size of each axis of a score within ``ranges``."""
        known = self.bound.frame.sizes
        return [ranges[n][1] - ranges[n][0] if n in ranges else known[n] for n in self.bound.places.names]


@dataclass(slots=True)
class Piece:
    """One block: its scores ``[branch..., shared..., rows, keys]`` with -inf (0 for plain sums) where nothing is kept,
    and what the backward needs.
    """

    scores: Tensor
    raw: Tensor
    keep: Tensor | None
    survive: Tensor | None


def piece(job: Job, q: Tensor, k: Tensor, ranges: Range, partial: bool, tables: Mapping[Captured, Tensor]) -> Piece:
    """The scores of one block; ``q`` is scaled already."""
    bound = job.bound
    raw = q @ k.transpose(-1, -2) if bound.finite else finite.scores(q, k)
    sizes = job.sizes(ranges)
    lead = raw.dim() - 2 - len(bound.lowered.shared)
    keep = kept(bound, ranges) if partial else None
    scores = raw
    if bound.lowered.score is not None:
        scores = changed(bound, raw.reshape(*raw.shape[:lead], *sizes), keep, ranges, tables)
        scores = scores.broadcast_to(*raw.shape[:lead], *sizes).reshape(raw.shape).contiguous()
    mask = None if keep is None else flatten(job, keep.broadcast_to(sizes), sizes)
    if mask is not None:
        empty = 0.0 if job.kind == "plain" else -math.inf
        scores = (
            scores.masked_fill_(~mask, empty)
            if scores is raw and bound.lowered.score is None
            else scores.masked_fill(~mask, empty)
        )
    survive = flatten(job, dropout.survivors(bound, ranges, bound.dropout), sizes) if bound.dropout else None
    return Piece(scores, raw, mask, survive)


def flatten(job: Job, x: Tensor, sizes: list[int]) -> Tensor:
    """A tensor over the axes of a score as ``[shared..., rows, keys]``."""
    shared = len(job.bound.lowered.shared)
    rows, keys = math.prod(sizes[shared : job.rows]), math.prod(sizes[job.rows :])
    return x.reshape(*sizes[:shared], rows, keys)


def product(job: Job, weights: Tensor, values: Tensor, keep: Tensor | None) -> Tensor:
    """Weights times values, safe from dropped keys that are not finite."""
    return weights @ values if job.bound.finite else finite.weighted(weights, values, keep)


@dataclass(slots=True)
class Sums:
    """The running sums of one block of rows.

    ``total`` includes the sink. ``alive`` says whether a key was kept. ``mass`` and ``moment`` are the sums of w and of
    w (score - largest) over the keys, for the entropy: relative to the largest score, so that large scores cancel
    before they are summed.
    """

    largest: Tensor
    total: Tensor
    output: Tensor
    buckets: Tensor | None
    alive: Tensor
    best: Tensor
    first: Tensor
    mass: Tensor
    moment: Tensor


def attend(
    job: Job, q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None, rows: Tensor | None, tables: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Output, lse (the row's sum where there is no lse) and the wanted statistics, in canonical layout."""
    found = cast("tuple[Tensor, ...]", _apply(job, q, k, v, sink, rows, *tables))
    return found[0], found[1], dict(zip(job.statistics, found[2:], strict=True))


class Attend(torch.autograd.Function):
    """Forward and backward of one attention, block by block."""

    @staticmethod
    def forward(
        ctx: Any, job: Job, q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None, rows: Tensor | None, *tables: Tensor
    ) -> Any:
        ctx.set_materialize_grads(False)
        job.tables = {**job.bound.tables, **dict(zip(job.captured, tables, strict=True))}
        shape = q.shape[:-1]
        output = q.new_zeros(*shape, v.shape[-1])
        lse = q.new_full(shape, -math.inf)
        stats = {
            n: torch.full(shape, -1, dtype=torch.int64, device=q.device) if n == "argmax" else q.new_zeros(shape)
            for n in job.statistics
        }
        buckets = None if rows is None else q.new_zeros(*shape, rows.shape[0])
        names = (*job.bound.lowered.shared, *job.bound.lowered.query_order)
        for shared in job.blocking.shared_ranges():
            for number, queries in job.blocking.query_ranges():
                ranges = {**shared, **queries}
                sums = accumulate(job, q, k, v, sink, rows, ranges, number)
                parts = finish(job, sums, rows)
                for whole, part in ((output, parts[0]), (lse, parts[1])):
                    _place(job, whole, part, ranges, names)
                for name, whole in stats.items():
                    _place(job, whole, _statistic(name, sums), ranges, names)
                if buckets is not None and parts[2] is not None:
                    _place(job, buckets, parts[2], ranges, names)
        ctx.job, ctx.has_sink = job, sink is not None
        ctx.save_for_backward(q, k, v, sink, rows, output, lse, buckets, *tables)
        ctx.mark_non_differentiable(*stats.values())
        return (output, lse, *stats.values())

    @staticmethod
    @recomputing("chunked")
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - torch names no arguments
        from .recompute import gradients

        q, k, v, sink, rows, output, lse, buckets, *tables = ctx.saved_tensors
        check_unchanged(ctx.job.versions)
        grad: Tensor = torch.zeros_like(output) if grads[0] is None else grads[0].contiguous()
        grad_lse: Tensor | None = grads[1]
        found = gradients(
            ctx.job, q, k, v, sink, rows, output, lse, buckets, tables, grad, grad_lse, ctx.needs_input_grad[1:]
        )
        return (None, *found)


def _place(job: Job, whole: Tensor, part: Tensor, ranges: Range, names: tuple[str, ...]) -> None:
    """Writes a block of rows into the whole, whose axes are leading branches, ``names``, and perhaps one more."""
    view = whole
    for name, (start, stop) in ranges.items():
        if name in names:
            view = view.narrow(job.branches + names.index(name), start, stop - start)
    view.copy_(part.reshape(view.shape))


def accumulate(
    job: Job, q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None, rows: Tensor | None, ranges: Range, number: int
) -> Sums:
    """The running sums of one block of rows over all its blocks of keys."""
    query = job.queries(q, ranges) * job.bound.frame.scale
    shape = query.shape[:-1]
    start = query.new_full((*shape, 1), -math.inf)
    total = query.new_zeros(*shape, 1)
    if sink is not None:
        start = job.rowwise(sink, ranges).expand(*shape).unsqueeze(-1).clone()
        total = torch.ones_like(total)
    buckets = None if rows is None else query.new_zeros(*shape, rows.shape[0])
    first = torch.full((*shape, 1), -1, dtype=torch.int64, device=q.device)
    sums = Sums(
        start,
        total,
        query.new_zeros(*shape, v.shape[-1]),
        buckets,
        torch.zeros_like(total, dtype=torch.bool),
        query.new_full((*shape, 1), -math.inf),
        first,
        torch.zeros_like(total),
        torch.zeros_like(total),
    )
    for key_range, partial in job.blocking.key_ranges(number):
        block = {**ranges, **key_range}
        values = job.read(1, v, block)
        fold(job, sums, piece(job, query, job.read(0, k, block), block, partial, job.tables), values, block)
    return sums


def fold(job: Job, sums: Sums, made: Piece, values: Tensor, block: Range) -> None:
    """Adds one block of keys to the running sums."""
    if made.scores.shape[-1] == 0:
        return
    if job.statistics:
        _observe(job, sums, made, block)
    if job.kind == "softmax":
        top = made.scores.amax(-1, keepdim=True)
        sums.alive |= top != -math.inf
        largest = torch.maximum(sums.largest, top)
        level = _level(largest)
        weights = torch.exp(made.scores - level)
        shrink = torch.exp(sums.largest - level)
        if "entropy" in job.statistics:
            _spread(sums, made, weights, shrink, level)
        sums.largest = largest
        sums.total = sums.total * shrink + weights.sum(-1, keepdim=True)
        sums.output *= shrink
        if sums.buckets is not None:
            sums.buckets *= shrink
    else:
        weights = _plain_weights(job, made)
        sums.total = sums.total + weights.sum(-1, keepdim=True)
    if made.survive is not None:
        weights = weights * made.survive
    sums.output += product(job, weights, values, made.keep)
    if sums.buckets is not None and job.bound.lowered.row_table is not None:
        sums.buckets.scatter_add_(-1, row_index(job, made, block, weights.shape), weights)


def _level(largest: Tensor) -> Tensor:
    """What exponents are relative to: the largest score so far, 0 where there is none."""
    return torch.where(largest == -math.inf, 0.0, largest)


def _spread(sums: Sums, made: Piece, weights: Tensor, shrink: Tensor, level: Tensor) -> None:
    """Adds one block to the entropy's sums, which move to the new level."""
    lower = torch.where(made.scores == -math.inf, 0.0, made.scores - level)
    moved = sums.moment + sums.mass * (_level(sums.largest) - level)
    sums.moment = moved * shrink + (weights * lower).sum(-1, keepdim=True)
    sums.mass = sums.mass * shrink + weights.sum(-1, keepdim=True)


def _plain_weights(job: Job, made: Piece) -> Tensor:
    """Weights that need no running maximum: sigmoid, or the scores themselves."""
    weights = job.bound.spec.weights
    if isinstance(weights, Sigmoid):
        shares = torch.sigmoid(made.scores + weights.bias)
        return shares if made.keep is None else shares.masked_fill(~made.keep, 0.0)
    return made.scores


def row_index(job: Job, made: Piece, block: Range, shape: torch.Size) -> Tensor:
    """Which row of the value table each pair of a block reads."""
    if job.bound.lowered.row_table is None:
        raise InternalError("a value table was read where there is none; please report this")
    sizes = job.sizes(block)
    read = rows_read(job.bound, job.bound.lowered.row_table[1], None, block, made.scores.dtype)
    return flatten(job, read.broadcast_to(sizes), sizes).expand(shape)


def _observe(job: Job, sums: Sums, made: Piece, block: Range) -> None:
    """Keeps the largest score and where it stood; the first one at a tie."""
    best, where = made.scores.max(-1, keepdim=True)
    sizes, keys = job.sizes(block)[job.rows :], job.bound.lowered.key
    flat = torch.zeros_like(where)
    stride, rest = 1, where
    for name, size in zip(reversed(keys), reversed(sizes), strict=True):
        flat = flat + (rest % size + (block[name][0] if name in block else 0)) * stride
        rest = rest // size
        stride *= job.bound.frame.sizes[name]
    # with several key coordinates a later block may hold a key that comes first in their order
    tied = (best == sums.best) & (flat < sums.first)
    better = (best > sums.best) | tied | (best.isnan() & ~sums.best.isnan())
    sums.best = torch.where(better, best, sums.best)
    sums.first = torch.where(better, flat, sums.first)


def finish(job: Job, sums: Sums, rows: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Output, lse and normalised buckets of one block of rows, from its sums."""
    divide = job.kind == "softmax" or (job.kind == "plain" and job.normalize)
    safe = torch.where(sums.total == 0, 1.0, sums.total) if divide else torch.ones_like(sums.total)
    output, buckets = sums.output / safe, sums.buckets
    if buckets is not None and rows is not None:
        buckets = buckets / safe
        output = output + buckets @ rows.to(buckets.dtype)
    if job.kind != "softmax":
        return output, sums.total.squeeze(-1), buckets
    lse = torch.where(sums.alive, torch.log(safe) + _level(sums.largest), -math.inf)
    return output, lse.squeeze(-1), buckets


def _statistic(name: str, sums: Sums) -> Tensor:
    """One statistic of a block of rows."""
    if name == "max_logit":
        return sums.best.squeeze(-1)
    if name == "argmax":
        return sums.first.squeeze(-1)
    total = torch.where(sums.alive, sums.total, 1.0)
    return ((sums.mass * torch.log(total) - sums.moment) / total).squeeze(-1)


_apply: Callable[..., Any] = Attend.apply  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
