"""Differential weights in the clamped form: negative differences become 0, and each row is divided by its sum.

A row's weights need both softmaxes at once, so this is a second pass over the blocks, after one that found the lse of
both maps; the backward is a third. Like every pass here it holds one block of scores at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch

from . import finite
from .backward import check_unchanged, recomputing
from .online import Job, Piece, Range, piece, product
from .recompute import Rules, add_keys, add_rows, through_terms

if TYPE_CHECKING:
    from torch import Tensor


def clamped(job: Job, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, lam: Tensor, tables: tuple[Tensor, ...]) -> Tensor:
    """The output of the clamped form, from the lse of both maps; no gradient flows through ``lse``."""
    return cast("Tensor", _apply(job, q, k, v, lse, lam, *tables))


class Clamped(torch.autograd.Function):
    """``relu(p1 - lam p2)`` divided by its sum, times the values; p1 and p2 from scores and the lse of each map."""

    @staticmethod
    def forward(
        ctx: Any, job: Job, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, lam: Tensor, *tables: Tensor
    ) -> Tensor:
        job.tables = {**job.bound.tables, **dict(zip(job.captured, tables, strict=True))}
        names = (*job.bound.lowered.shared, *job.bound.lowered.query_order)
        output = q.new_zeros(*q.shape[1:-1], v.shape[-1])
        total = q.new_zeros(q.shape[1:-1])
        for shared in job.blocking.shared_ranges():
            for number, queries in job.blocking.query_ranges():
                ranges = {**shared, **queries}
                query, rows_lse, rows_lam = _rows(job, q, lse, lam, ranges)
                summed = query.new_zeros(*query.shape[1:-1], v.shape[-1])
                mass = query.new_zeros(*query.shape[1:-1], 1)
                for key_range, partial in job.blocking.key_ranges(number):
                    block = {**ranges, **key_range}
                    made = piece(job, query, job.read(0, k, block), block, partial, job.tables)
                    weights = torch.relu(_difference(made, rows_lse, rows_lam))
                    mass += weights.sum(-1, keepdim=True)
                    weights = weights if made.survive is None else weights * made.survive
                    summed += product(job, weights, job.read(1, v, block), made.keep)
                done = torch.where(mass == 0, 0.0, summed / torch.where(mass == 0, 1.0, mass))
                for whole, part in ((output, done), (total, mass)):
                    view = job.cut(whole if whole is output else whole.unsqueeze(-1), ranges, names)
                    view.copy_(part.reshape(view.shape))
        ctx.job = job
        ctx.save_for_backward(q, k, v, lse, lam, output, total, *tables)
        return output

    @staticmethod
    @recomputing("chunked")
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - torch names no arguments
        grad: Tensor = grads[0].contiguous()
        job: Job = ctx.job
        q, k, v, lse, lam, output, total, *tables = ctx.saved_tensors
        check_unchanged(job.versions)
        needed = ctx.needs_input_grad[1:]
        wide = [torch.zeros_like(x) if n else None for x, n in zip((q, k, v), needed, strict=False)]
        of_tables = [q.new_zeros(t.shape) if n else None for t, n in zip(tables, needed[5:], strict=True)]
        d_lam = torch.zeros_like(total)
        rules = Rules(job, needed[5:])
        delta = (grad * output).sum(-1)
        for shared in job.blocking.shared_ranges():
            for number, queries in job.blocking.query_ranges():
                _rows_backward(
                    job,
                    number,
                    {**shared, **queries},
                    (q, k, v),
                    (lse, lam, total, delta, grad),
                    wide,
                    of_tables,
                    d_lam,
                    rules,
                )
        return (
            None,
            *wide,
            None,
            d_lam,
            *(None if g is None else g.to(t.dtype) for g, t in zip(of_tables, tables, strict=True)),
        )


def _rows(job: Job, q: Tensor, lse: Tensor, lam: Tensor, ranges: Range) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled queries, the lse of both maps and lambda of one block of rows."""
    query = job.queries(q, ranges) * job.bound.frame.scale
    return query, job.queries(lse.unsqueeze(-1), ranges), job.queries(lam.unsqueeze(-1), ranges)


def _shares(made: Piece, lse: Tensor) -> Tensor:
    """Both maps' weights ``[2, ...]``."""
    return torch.exp(made.scores - torch.where(lse == -math.inf, 0.0, lse))


def _difference(made: Piece, lse: Tensor, lam: Tensor) -> Tensor:
    shares = _shares(made, lse)
    return shares[0] - lam * shares[1]


def _rows_backward(
    job: Job,
    number: int,
    ranges: Range,
    operands: tuple[Tensor, Tensor, Tensor],
    by_row: tuple[Tensor, ...],
    wide: list[Tensor | None],
    of_tables: list[Tensor | None],
    d_lam: Tensor,
    rules: Rules,
) -> None:
    """Adds one block of rows to the gradients: two passes over its keys, for the softmaxes' own sums come first."""
    q, k, v = operands
    query, lse, lam = _rows(job, q, by_row[0], by_row[1], ranges)
    total, delta = (job.queries(x.unsqueeze(-1), ranges) for x in by_row[2:4])
    grad = job.queries(by_row[4], ranges)
    safe = torch.where(total == 0, 1.0, total)
    pulls = query.new_zeros(2, *query.shape[1:-1], 1)

    def block_gradient(block: Range, partial: bool) -> tuple[Piece, Tensor, Tensor, Tensor]:
        """A block's scores, both maps, the gradient of the difference, and the weights used on values."""
        value = job.read(1, v, block) if job.bound.finite else finite.clean(job.read(1, v, block))
        made = piece(job, query, job.read(0, k, block), block, partial, job.tables)
        shares = _shares(made, lse)
        difference = shares[0] - lam * shares[1]
        incoming = grad @ value.transpose(-1, -2)
        incoming = incoming if made.survive is None else incoming * made.survive
        taken = (difference > 0) & (total > 0)
        slope = torch.where(taken, (incoming - delta) / safe, 0.0)
        weights = torch.where(taken, difference / safe, 0.0)
        return made, shares, slope, weights if made.survive is None else weights * made.survive

    blocks = [({**ranges, **key_range}, partial) for key_range, partial in job.blocking.key_ranges(number)]
    for block, partial in blocks:
        _, shares, slope, _ = block_gradient(block, partial)
        pulls += (shares * slope).sum(-1, keepdim=True)
    view = job.cut(d_lam.unsqueeze(-1), ranges, (*job.bound.lowered.shared, *job.bound.lowered.query_order))
    view += -pulls[1].reshape(view.shape)
    d_query = torch.zeros_like(query)
    for block, partial in blocks:
        made, shares, slope, weights = block_gradient(block, partial)
        d_first = shares[0] * (slope - pulls[0])
        d_second = -lam * shares[1] * (slope - pulls[1])
        d_scores = torch.stack([d_first, d_second])
        d_scores = d_scores if made.keep is None else d_scores.masked_fill(~made.keep, 0.0)
        d_raw = through_terms(job, made, d_scores, block, of_tables, rules)
        key = job.read(0, k, block) if job.bound.finite else finite.clean(job.read(0, k, block))
        d_query += d_raw @ key
        if wide[1] is not None:
            add_keys(
                job, wide[1], d_raw.transpose(-1, -2) @ (query if job.bound.finite else finite.clean(query)), block
            )
        if wide[2] is not None:
            add_keys(job, wide[2], (weights.transpose(-1, -2) @ grad).unsqueeze(0), block)
    if wide[0] is not None:
        add_rows(job, wide[0], d_query * job.bound.frame.scale, ranges)


_apply: Callable[..., Any] = Clamped.apply  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
