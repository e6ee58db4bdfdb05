"""A bound call as the compiled core sees it: axes in its order, strides, and the object that runs its signature.

The core's rows run along head groups first and along the sequence last, so that a tile of rows is a stretch of the
sequence. Differential weights are one more shared axis, the outermost, along which values do not move. This module
knows layouts; it refuses to know what is computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core import riding
from ..terms.weights import Sigmoid

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..core import Attention
    from ..spec import Lowered
    from .bind import Bound

ELEMENTS = ("float64", "float32", "bfloat16", "float16")
"""The types of elements in the order of csrc/elements.h."""

CODES = {8: 4, 4: 5}
"""The numbers there of codes, by their bits."""

MOST_AXES = 8
"""Shared, row and key axes that the core takes, of each (csrc/attention.h)."""

Strides = tuple[list[int], list[int], int]


def row_order(lowered: Lowered) -> tuple[str, ...]:
    """The query-only coordinates as the core flattens them: head groups, then sequences."""
    sequences = lowered.roles.query_candidates
    return (*(n for n in lowered.query_order if n not in sequences), *sequences)


@dataclass(frozen=True, slots=True)
class Shape:
    """The axes of one call: ``lead`` are the sizes of axes before the shared ones (maps of differential weights, axes
    of a vmap), along which terms do not change.
    """

    lead: tuple[int, ...]
    shared: tuple[int, ...]
    query_order: tuple[int, ...]
    keys: tuple[int, ...]
    order: tuple[int, ...]
    feature_size: int
    value_size: int

    @staticmethod
    def of(bound: Bound, q: Tensor, v: Tensor) -> Shape:
        """The axes of ``q [lead..., shared..., query-only..., feature]`` and the values of the same call."""
        lowered, sizes = bound.lowered, bound.frame.sizes
        shared, queries = len(lowered.shared), len(lowered.query_order)
        lead = tuple(q.shape[: q.dim() - 1 - queries - shared])
        order = tuple(lowered.query_order.index(n) for n in row_order(lowered))
        return Shape(
            lead,
            tuple(sizes[n] for n in lowered.shared),
            tuple(sizes[n] for n in lowered.query_order),
            tuple(sizes[n] for n in lowered.key),
            order,
            q.shape[-1],
            v.shape[-1],
        )

    @property
    def rows(self) -> tuple[int, ...]:
        """The sizes of a tensor by row: lead, shared and query-only axes."""
        return (*self.lead, *self.shared, *self.query_order)

    @property
    def num_rows(self) -> int:
        """How many rows one shared element has."""
        return math.prod(self.query_order)

    @property
    def is_empty(self) -> bool:
        """Whether there is no pair at all."""
        return 0 in (*self.lead, *self.shared, *self.query_order, *self.keys)

    def by_row(self, x: Tensor, last: bool) -> Strides:
        """The strides of a tensor over ``rows``, with one more axis when ``last`` is true."""
        strides = list(x.stride())
        step = strides.pop() if last else 0
        split = len(self.lead) + len(self.shared)
        return strides[:split], [strides[split + n] for n in self.order], step

    def by_key(self, x: Tensor) -> Strides:
        """The strides of a tensor over lead, shared and key axes and one more; a lead that it lacks is a step of 0."""
        strides = list(x.stride())
        step = strides.pop()
        split = len(strides) - len(self.keys)
        missing = len(self.lead) + len(self.shared) - split
        return [0] * missing + strides[:split], strides[split:], step

    def signature(
        self,
        bound: Bound,
        dtype: torch.dtype,
        num_buckets: int,
        views: dict[str, Strides],
        *,
        key_element: int = -1,
        placing: dict[str, list[int]] | None = None,
        out: torch.dtype | None = None,
        grad: torch.dtype | None = None,
    ) -> Attention:
        """The core's object for calls of this signature; ``out`` and ``grad`` are the types of the output and of its
        gradient where they are not ``dtype``, the queries'. ``key_element`` and ``placing`` are of ``stored.Placed``.
        """
        weights = bound.spec.weights
        steps, step = [0] * len(self.query_order), 1
        for n in reversed(range(len(self.query_order))):
            steps[n] = step
            step *= self.query_order[n]
        return riding().Attention(
            element=element_of(dtype),
            key_element=key_element,
            placing=placing or {},
            out_element=-1 if out is None else element_of(out),
            grad_element=-1 if grad is None else element_of(grad),
            shared=[*self.lead, *self.shared],
            rows=[self.query_order[n] for n in self.order],
            keys=list(self.keys),
            feature_size=self.feature_size,
            value_size=self.value_size,
            scale=bound.frame.scale,
            weighing=int(isinstance(weights, Sigmoid)),
            bias=weights.bias if isinstance(weights, Sigmoid) else 0.0,
            terms_shared=math.prod(self.shared) if self.lead else 0,
            pair_row=[steps[n] for n in self.order],
            num_buckets=num_buckets,
            views=views,
        )


def element_of(dtype: torch.dtype) -> int:
    """The core's number of a type of elements."""
    return ELEMENTS.index(str(dtype).removeprefix("torch."))


def address(x: Tensor | None) -> int:
    """Where the tensor's elements begin; 0 for none."""
    return 0 if x is None else x.data_ptr()


def expanded(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """A tensor by row whose axes may have size 1, over all rows."""
    return x.expand(tuple(sizes))
