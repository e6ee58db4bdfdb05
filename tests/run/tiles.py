"""Calls whose terms the core evaluates tile by tile, beside the readers for values and bounds; shared by its tests."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import qkv
from qkv.run.bind import Bound, bind, frame
from qkv.run.scores import environment
from qkv.run.tile_program import Compiled, compiled
from qkv.terms.expr import Captured
from qkv.terms.values import evaluate

GROUPED = "b (h g) i d, b h j d, b h j e -> b (h g) i e"
PLAIN = "b h i d, b h j d, b h j e -> b h i e"
Place = tuple[int, int, int, int, int]
"""Shared index, first row, rows, first key, keys."""

IMAGE = "b h y x d, b h m n d, b h m n e -> b h y x e"


def bound_call(spec: qkv.Spec, sizes: dict[str, int], dtype: torch.dtype = torch.float32, **more: Any) -> Bound:
    """A call of ``spec`` with random queries and keys; ``more`` are positions and align."""
    drawn = torch.Generator().manual_seed(3)
    tensors: list[Tensor] = []
    for side in spec.pattern.split("->")[0].split(","):
        axes: list[int] = []
        for axis in side.replace("(h g)", "hg").split():
            axes.append(math.prod(sizes[name] for name in (axis if axis != "hg" else "hg")))
        tensors.append(torch.randn(*axes, generator=drawn, dtype=torch.float64).to(dtype))
    known = {name: sizes[name] for name in sizes if f"({name}" in spec.pattern or f"{name})" in spec.pattern}
    q, k, v = tensors
    made = frame(spec, q, k, v, known or None)
    return bind(
        made, q, k, v, positions=more.get("positions"), align=more.get("align"), want=frozenset(), dropout=0.0, seed=0
    )


@dataclass
class Flat:
    """A call's scores as the core sees them: one axis each for shared, rows and keys."""

    bound: Bound
    program: Compiled
    order: tuple[str, ...]
    shared: int
    rows: int
    keys: int

    @staticmethod
    def of(bound: Bound, gradients: tuple[Captured, ...] | None = None, rows: tuple[str, ...] | None = None) -> Flat:
        """The call with its query-only coordinates in the order ``rows``."""
        sizes, lowered = bound.frame.sizes, bound.lowered
        groups = (lowered.shared, rows or lowered.query_order, lowered.key)
        counts = [math.prod(sizes[n] for n in group) for group in groups]
        return Flat(bound, compiled(bound, gradients), tuple(n for group in groups for n in group), *counts)

    def flat(self, values: Tensor) -> Tensor:
        """Values over the axes of a score, as the core counts them."""
        names = self.bound.places.names
        whole = values.broadcast_to([self.bound.frame.sizes[n] for n in names])
        return whole.permute([names.index(n) for n in self.order]).reshape(self.shared, self.rows, self.keys)

    def raw(self) -> Tensor:
        """Scores to start from: sizes from tiny to large, all finite."""
        drawn = torch.Generator().manual_seed(11)
        shape = (self.shared, self.rows, self.keys)
        raw = torch.randn(*shape, generator=drawn, dtype=torch.float64)
        return (raw * 10.0 ** torch.randint(-3, 3, shape, generator=drawn)).to(self.bound.working_dtype)

    def unflat(self, values: Tensor) -> Tensor:
        """The inverse of ``flat``."""
        names = self.bound.places.names
        return values.reshape([self.bound.frame.sizes[n] for n in self.order]).permute(
            [self.order.index(n) for n in names]
        )

    def mask(self) -> Tensor:
        """Which pairs are kept, by the reader for values."""
        node = self.bound.lowered.keep
        if node is None:
            return torch.ones(self.shared, self.rows, self.keys, dtype=torch.bool)
        return self.flat(evaluate(node, environment(self.bound, {}, torch.float64)))

    def expected(self, raw: Tensor) -> Tensor:
        """Every score after the terms, by the reader for values, with -inf at dropped pairs."""
        node = self.bound.lowered.score
        value = raw
        if node is not None:
            dtype = self.bound.working_dtype
            value = self.flat(evaluate(node, environment(self.bound, {}, dtype, self.unflat(raw))))
        return value.masked_fill(~self.mask(), -math.inf)

    def places(self) -> list[Place]:
        """Places of many forms: whole, single rows and keys, tiles that start and end anywhere."""
        shared = sorted({0, self.shared // 2, self.shared - 1})
        rows = [(0, self.rows), (self.rows // 3, 1), (self.rows // 2, self.rows - self.rows // 2)]
        keys = [(0, self.keys), (self.keys // 3, min(17, self.keys - self.keys // 3)), (self.keys - 1, 1)]
        return [(s, *r, *k) for s, r, k in itertools.product(shared, rows, keys)]


def at(values: Tensor, place: Place) -> Tensor:
    """The part of values [shared, rows, keys] at a place."""
    shared, row0, rows, key0, keys = place
    return values[shared, row0 : row0 + rows, key0 : key0 + keys]
