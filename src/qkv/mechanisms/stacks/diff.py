"""Attention of the Differential Transformer: causal, rotary, differential."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ...errors import SpecError
from ...spec import Spec
from ...terms import masks, position, weights
from ..entry import Entry, Layer

if TYPE_CHECKING:
    from torch import Tensor


def diff_transformer(lam: Tensor | float, *, layer: int = 1, theta: float = 10_000.0) -> Spec:
    """Return attention of the Differential Transformer in its ``layer``, counted from 1.

        out[i] = (1 - λ_init) norm(Σ_{j ≤ i} (softmax(s₁) - λ softmax(s₂))_j v[j])

    Coordinates: b batch, h heads, i queries, j keys, 2d features, e = 2d value features; s₁ and s₂ come from the two
    halves, each rotated by itself; λ_init = 0.8 - 0.6 exp(-0.3 (layer - 1)). ``lam``: a number or a tensor, one or [h];
    see ``qkv.differential_lambda``.
    Cache per token: h (2d + e), of the 3B model 12 (256 + 256) = 6144
    Source: Ye et al. 2024, Differential Transformer (arXiv 2410.05258), section 2, equations 1 to 3
    """
    if layer < 1:
        raise SpecError(f"diff_transformer: layer={layer!r}.\n  Layers are counted from 1.")
    lambda_init = 0.8 - 0.6 * math.exp(-0.3 * (layer - 1))
    return Spec(
        position=position.rope(theta),
        keep=masks.causal(),
        weights=weights.differential(lam, lambda_init=lambda_init),
    )


DIFF = Entry(
    "diff-transformer",
    "Differential Transformer 3B",
    "stack",
    (Layer("", diff_transformer, {"b": 1, "h": 12, "d": 256, "e": 256}, lambda sizes: {"lam": (sizes["h"],)}),),
)
