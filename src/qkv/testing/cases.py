"""What one test case is: sizes, inputs in a layout, and what is known about the answer.

Knows how inputs are seeded, laid out and described. Refuses to know which numbers a family chooses and what computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qkv.errors import SizeMismatch
from qkv.testing.layouts import lay_out
from qkv.testing.oracle import OracleResult, full_mask, oracle


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of one call: q [b, h, i, d], k [b, hk, j, d], v [b, hk, j, e]."""

    batch: int = 2
    query_heads: int = 4
    key_heads: int = 2
    query_length: int = 17
    key_length: int = 33
    feature_size: int = 16
    value_size: int = 16

    def __post_init__(self) -> None:
        if self.key_heads < 1 or self.query_heads % self.key_heads:
            raise SizeMismatch(f"query heads {self.query_heads} are no multiple of key heads {self.key_heads}")

    @property
    def shapes(self) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int], tuple[int, int, int, int]]:
        """The shapes of q, k and v."""
        return (
            (self.batch, self.query_heads, self.query_length, self.feature_size),
            (self.batch, self.key_heads, self.key_length, self.feature_size),
            (self.batch, self.key_heads, self.key_length, self.value_size),
        )


@dataclass(frozen=True, slots=True, repr=False)
class Case:
    """One call's inputs, and what is known about its answer.

    Coordinates: q [b, h, i, d], k [b, hk, j, d], v [b, hk, j, e]; ``keep`` broadcasts to [b, h, i, j], None keeps
    every key; ``expected`` [b, h, i, e] in the inputs' dtype, right bit for bit in the rows where ``exact`` [b, h, i]
    is True.
    Edges: ``expected`` is None when no row is known beforehand; other rows are judged by the bound.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    keep: Tensor | None
    expected: Tensor | None
    exact: Tensor | None
    scale: float | None
    description: str

    def __repr__(self) -> str:
        return self.description

    @property
    def tolerance(self) -> Literal["zero", "bound"]:
        """``zero`` when every row is known bit for bit."""
        return "zero" if self.exact is not None and bool(self.exact.all()) else "bound"

    def reference(self) -> OracleResult:
        """The float64 answer."""
        return oracle(self.q, self.k, self.v, keep=self.keep, scale=self.scale)


class Maker:
    """The numbers of one case: a seeded generator, and the tensors in their layout."""

    def __init__(
        self,
        name: str,
        sizes: Sizes,
        dtype: torch.dtype,
        keep: Tensor | None,
        seed: int,
        layout: str,
        scale: float | None,
    ):
        self.sizes, self.dtype, self.keep, self.scale, self.layout = sizes, dtype, keep, scale, layout
        self.generator = torch.Generator().manual_seed(seed)
        masked = "" if keep is None else ", keep=keep"
        scaled = "" if scale is None else f", scale={scale!r}"
        self.description = f"{name}({sizes!r}, {dtype}, seed={seed}, layout={layout!r}{masked}{scaled})"
        if keep is not None:
            queries, keys, _ = (torch.empty(shape, device="meta") for shape in sizes.shapes)
            full_mask(keep.to("meta"), queries, keys)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (self.normal(shape) for shape in self.sizes.shapes)
        return q, k, v

    def kept(self) -> Tensor:
        queries, keys, _ = (torch.empty(shape, device="meta") for shape in self.sizes.shapes)
        shape = (*queries.shape[:3], keys.shape[2])
        return torch.ones(shape, dtype=torch.bool) if self.keep is None else self.keep.expand(shape)

    def typed(self, x: Tensor, layout: str | None = None) -> Tensor:
        return lay_out(x.to(self.dtype), self.layout if layout is None else layout)

    def case(
        self, q: Tensor, k: Tensor, v: Tensor, expected: Tensor | None = None, exact: Tensor | None = None
    ) -> Case:
        return Case(q, k, v, self.keep, expected, exact, self.scale, self.description)

    def queries(self, q: Tensor) -> Tensor:
        # equal query heads would hide a wrong head map, so only keys and values take stride 0
        return self.typed(q, "contiguous" if self.layout == "stride-0 heads" else None)
