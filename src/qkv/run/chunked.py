"""Strategy ``chunked``: any spec, on any device, in memory that grows with the number of rows and keys and not with
their product.

Scores are made block by block, folded into running sums, and made again in the backward. Differential weights are two
softmaxes combined afterwards; the clamped form, whose rows need both maps at once, takes a second pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..errors import InternalError
from ..plan import Capability, Cost, Request
from ..plan.cost import dense_flops, price, tensor_bytes
from ..terms.weights import Differential, Linear, Sigmoid
from . import finite
from .blocks import BLOCK_SCORES, cut
from .clamped import clamped
from .online import Job, attend
from .result import Computed
from .scores import by_row

if TYPE_CHECKING:
    from torch import Tensor

    from ..cache import Stored
    from .bind import Bound

LOOKED_AT = 4096
"""Rows of a cache that are looked at together for NaN and infinity."""


def _holds_finite(stored: Stored) -> bool:
    """Whether every number that is stored is finite; of codes, the scales say it."""
    if stored.scale is not None and stored.pages is None:
        newest = stored.newest
        return finite.is_finite(stored.scale) and (newest is None or finite.is_finite(newest.data))
    parts = range(0, stored.count, LOOKED_AT)
    return all(finite.is_finite(stored.part(first, min(first + LOOKED_AT, stored.count))) for first in parts)


class Chunked:
    """Blocks with online sums and a recomputing backward."""

    name = "chunked"
    capability = Capability(
        want=frozenset({"lse", "max_logit", "entropy", "argmax"}),
        reads=frozenset({"ring", "paged", "quantized"}),
        invariant=True,
    )

    def cost(self, request: Request) -> Cost:
        """Both products in blocks, a dozen passes over each block, and a call into torch for each of those."""
        blocks = max(1.0, request.pairs / BLOCK_SCORES)
        scratch = 4 * 6 * min(request.pairs, BLOCK_SCORES)
        return price(dense_flops(request), tensor_bytes(request), scratch, efficiency=0.4, calls=10 + 12 * blocks)

    def run(self, bound: Bound) -> Computed:
        """The output and whatever statistics were wanted."""
        weights, dtype = bound.spec.weights, bound.working_dtype
        bound.finite = finite.is_finite(bound.q, *(() if bound.stored else (bound.k, bound.v)))
        if bound.stored is not None:
            bound.finite = bound.finite and all(_holds_finite(stored) for stored in bound.stored)
        kind = "sigmoid" if isinstance(weights, Sigmoid) else "plain" if isinstance(weights, Linear) else "softmax"
        job = Job(bound, cut(bound), kind, weights.normalize if isinstance(weights, Linear) else True)
        sink = None if bound.lowered.sink is None else by_row(bound, bound.lowered.sink, dtype)
        rows = None if bound.lowered.row_table is None else bound.lowered.row_table[0].tensor
        tables = tuple(bound.tables[c] for c in job.captured)
        operands = (bound.q.to(dtype), bound.k.to(dtype), bound.v.to(dtype))
        if isinstance(weights, Differential):
            return self.differential(bound, job, weights, operands, tables, rows)
        output, lse, stats = attend(job, *operands, sink, rows, tables)
        return Computed(output, lse if kind == "softmax" else None, stats)

    def differential(
        self,
        bound: Bound,
        job: Job,
        weights: Differential,
        operands: tuple[Tensor, Tensor, Tensor],
        tables: tuple[Tensor, ...],
        rows: Tensor | None,
    ) -> Computed:
        """Two maps, subtracted; normalised by head, or clamped and divided by their sum."""
        if bound.lowered.lam is None:
            raise InternalError("differential weights were lowered without a lambda; please report this")
        lam = by_row(bound, bound.lowered.lam, bound.working_dtype)
        q, k, v = operands
        output, lse, found = attend(job, q, k, v, None, rows, tables)
        if weights.renormalize == "clamp":
            return Computed(clamped(job, q, k, v, lse.detach(), lam.expand(output.shape[1:-1]), tables), lse, found)
        output = output[0] - lam.unsqueeze(-1) * output[1]
        if weights.lambda_init is not None:
            mean = output.square().mean(-1, keepdim=True) + weights.eps
            output = output * torch.rsqrt(mean) * (1.0 - weights.lambda_init)
        return Computed(output, lse, found)
