"""The backward of blockwise attention: each block's scores made again, folded into the gradients of what made them.

With p the weights and delta = sum(grad * output): softmax gives d(score) = p (grad . v - delta) (Dao et al. 2022,
appendix B). The derivative of the score terms and of captured tables comes from their graphs by rule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch

from ..terms.derivative import derivative, is_zero, lookups_of
from ..terms.expr import Lookup, Node, Score
from ..terms.values import Environment, evaluate
from ..terms.weights import Sigmoid
from . import finite
from .online import Job, Piece, Range, piece, row_index
from .scores import environment

if TYPE_CHECKING:
    from torch import Tensor


class Rules:
    """The derivatives of a call's score graph: by the score, and by each lookup in a table that needs a gradient."""

    def __init__(self, job: Job, needed: Sequence[bool]) -> None:
        node = job.bound.lowered.score
        self.by_score: Node | None = None if node is None else derivative(node, Score())
        self.by_lookup: list[tuple[int, Lookup, Node]] = []
        if node is None:
            return
        for number, (table, wanted) in enumerate(zip(job.captured, needed, strict=True)):
            if wanted:
                self.by_lookup += [(number, lookup, derivative(node, lookup)) for lookup in lookups_of(node, table)]


def gradients(
    job: Job,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sink: Tensor | None,
    rows: Tensor | None,
    output: Tensor,
    lse: Tensor,
    buckets: Tensor | None,
    tables: Sequence[Tensor],
    grad: Tensor,
    grad_lse: Tensor | None,
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of q, k, v, sink, rows and tables, in this order; None where ``needed`` says so."""
    wide = [torch.zeros_like(x) if n else None for x, n in zip((q, k, v), needed, strict=False)]
    of_tables = [q.new_zeros(t.shape) if n else None for t, n in zip(tables, needed[5:], strict=True)]
    rules = Rules(job, needed[5:])
    delta = (grad * output).sum(-1)
    if grad_lse is not None and job.kind == "softmax":
        delta = delta - grad_lse
    for shared in job.blocking.shared_ranges():
        for number, queries in job.blocking.query_ranges():
            ranges = {**shared, **queries}
            _rows_backward(job, number, ranges, (q, k, v), rows, (lse, delta, grad), wide, of_tables, rules)
    d_sink = None if sink is None or not needed[3] else _sink_gradient(job, sink, lse, delta)
    d_rows = None
    if rows is not None and buckets is not None and needed[4]:
        d_rows = (buckets.flatten(0, -2).transpose(0, 1) @ grad.flatten(0, -2)).to(rows.dtype)
    return [
        *wide,
        d_sink,
        d_rows,
        *(None if g is None else g.to(t.dtype) for g, t in zip(of_tables, tables, strict=True)),
    ]


def _sink_gradient(job: Job, sink: Tensor, lse: Tensor, delta: Tensor) -> Tensor:
    """The sink's share times ``-delta``, summed over the axes that the sink lacks."""
    share = torch.where(lse == -math.inf, 0.0, torch.exp(sink - torch.where(lse == -math.inf, 0.0, lse)))
    return summed_to(-share * delta, sink.shape)


def _rows_backward(
    job: Job,
    number: int,
    ranges: Range,
    operands: tuple[Tensor, Tensor, Tensor],
    rows: Tensor | None,
    by_row: tuple[Tensor, Tensor, Tensor],
    wide: list[Tensor | None],
    of_tables: list[Tensor | None],
    rules: Rules,
) -> None:
    """Adds the part of one block of rows to the gradients."""
    q, k, v = operands
    lse, delta, grad = (job.queries(x if x is by_row[2] else x.unsqueeze(-1), ranges) for x in by_row)
    scale = job.bound.frame.scale
    query = job.queries(q, ranges) * scale
    d_query = torch.zeros_like(query)
    for key_range, partial in job.blocking.key_ranges(number):
        block = {**ranges, **key_range}
        key, value = job.read(0, k, block), job.read(1, v, block)
        if not job.bound.finite:
            value = finite.clean(value)
        made = piece(job, query, key, block, partial, job.tables)
        d_scores, weights = _through_weights(job, made, value, rows, lse, delta, grad, block)
        if wide[2] is not None:
            add_keys(job, wide[2], weights.transpose(-1, -2) @ grad, block)
        d_raw = through_terms(job, made, d_scores, block, of_tables, rules)
        if not job.bound.finite:
            key = finite.clean(key)
        d_query += d_raw @ key
        if wide[1] is not None:
            add_keys(
                job, wide[1], d_raw.transpose(-1, -2) @ (query if job.bound.finite else finite.clean(query)), block
            )
    if wide[0] is not None:
        add_rows(job, wide[0], d_query * scale, ranges)


def _through_weights(
    job: Job, made: Piece, value: Tensor, rows: Tensor | None, lse: Tensor, delta: Tensor, grad: Tensor, block: Range
) -> tuple[Tensor, Tensor]:
    """The gradient of a block's scores after all terms, and the weights that values were summed with."""
    incoming = grad @ value.transpose(-1, -2)
    if rows is not None:
        incoming = incoming + (grad @ rows.to(grad.dtype).transpose(-1, -2)).gather(
            -1, row_index(job, made, block, incoming.shape)
        )
    if made.survive is not None:
        incoming = incoming * made.survive
    kind = job.bound.spec.weights
    if job.kind == "softmax":
        weights = torch.exp(made.scores - torch.where(lse == -math.inf, 0.0, lse))
        d_scores = weights * (incoming - delta)
    elif isinstance(kind, Sigmoid):
        weights = torch.sigmoid(made.scores + kind.bias)
        weights = weights if made.keep is None else weights.masked_fill(~made.keep, 0.0)
        # the other side's logistic function: 1 - weights has no digits left where weights are near 1
        d_scores = incoming * weights * torch.sigmoid(-(made.scores + kind.bias))
    else:
        # For plain sums ``lse`` holds the sum itself.
        total = torch.where(lse == 0, 1.0, lse)
        dead = lse == 0
        weights = torch.where(dead, 0.0, made.scores / total) if job.normalize else made.scores
        d_scores = torch.where(dead, 0.0, (incoming - delta) / total) if job.normalize else incoming
    if made.keep is not None:
        d_scores = d_scores.masked_fill(~made.keep, 0.0)
    return d_scores, weights if made.survive is None else weights * made.survive


def through_terms(
    job: Job, made: Piece, d_scores: Tensor, block: Range, of_tables: list[Tensor | None], rules: Rules
) -> Tensor:
    """The gradient of the scaled product, from that of the changed scores; tables get theirs on the way."""
    if rules.by_score is None:
        return d_scores
    sizes = job.sizes(block)
    lead = d_scores.shape[: job.branches]
    spread = d_scores.reshape(*lead, *sizes)
    env = environment(job.bound, block, d_scores.dtype, made.raw.reshape(*lead, *sizes), job.tables)
    for number, lookup, rule in rules.by_lookup:
        target = of_tables[number]
        if target is not None:
            _scatter(target, lookup, _masked(spread * evaluate(rule, env), made, sizes), env, job)
    if is_zero(rules.by_score):
        return torch.zeros_like(d_scores)
    return _masked(spread * evaluate(rules.by_score, env), made, sizes).reshape(d_scores.shape)


def _masked(x: Tensor, made: Piece, sizes: list[int]) -> Tensor:
    """0 where a pair is dropped: a derivative may be NaN there, and 0 * NaN is NaN."""
    return x if made.keep is None else x.masked_fill(~made.keep.reshape(sizes), 0.0)


def _scatter(target: Tensor, lookup: Lookup, contribution: Tensor, env: Environment, job: Job) -> None:
    """Adds each pair's contribution to the element of the table that the pair read."""
    if not lookup.indices:
        target += summed_to(contribution, ())
        return
    table = job.tables[lookup.table]
    indices = [evaluate(index, env).clamp(0, size - 1) for index, size in zip(lookup.indices, table.shape, strict=True)]
    spread = cast("tuple[Tensor, ...]", torch.broadcast_tensors(*indices))  # pyright: ignore[reportUnknownMemberType]
    summed = summed_to(contribution, spread[0].shape)
    if target.device.type != "cpu":
        target.index_put_(spread, summed, accumulate=True)
        return
    # on a CPU index_put_ adds in the order in which threads come by; one index along one axis is added in order
    flat = torch.zeros_like(spread[0])
    for index, size in zip(spread, table.shape, strict=True):
        flat = flat * size + index
    target.view(-1).index_add_(0, flat.reshape(-1), summed.reshape(-1))


def summed_to(x: Tensor, shape: Sequence[int]) -> Tensor:
    """``x`` summed over the axes that ``shape`` lacks or has at size 1, one axis at a time: a sum of everything at once
    is split among threads, and its last bits then depend on their number.
    """
    lead = x.dim() - len(shape)
    for axis in reversed(range(x.dim())):
        if axis < lead or (shape[axis - lead] == 1 and x.shape[axis] != 1):
            x = x.sum(axis, keepdim=True)
    return x.reshape(tuple(shape))


def add_keys(job: Job, whole: Tensor, part: Tensor, block: Range) -> None:
    """Adds a block of keys ``[branch..., shared..., keys, last]`` to the whole; branches that the whole lacks are
    summed.
    """
    names = (*job.bound.lowered.shared, *job.bound.lowered.key)
    lead = whole.dim() - 1 - len(names)
    if job.branches > lead:
        part = part.sum(0)
    view = job.cut(whole, block, names)
    view += part.reshape(view.shape)


def add_rows(job: Job, whole: Tensor, part: Tensor, ranges: Range) -> None:
    """Adds a block of rows to the whole."""
    view = job.cut(whole, ranges, (*job.bound.lowered.shared, *job.bound.lowered.query_order))
    view += part.reshape(view.shape)
