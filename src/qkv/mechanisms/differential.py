"""Differential attention: the difference of two softmax maps, so that what both see as noise cancels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..spec import Spec
from ..terms import weights
from ..terms.keep import Keep

if TYPE_CHECKING:
    from torch import Tensor


def differential(lam: Tensor | float, *, lambda_init: float, keep: Keep | None = None) -> Spec:
    """Return differential attention as in the paper: two maps subtracted, then each head normalised.

        out[i] = (1 - λ_init) norm(Σ_j (softmax_j(q₁[i] · k₁[j] / √d) - λ softmax_j(q₂[i] · k₂[j] / √d)) v[j])

    Coordinates: b batch, h heads, i queries, j keys, 2d features (first half q₁, second q₂), e value features; norm
    divides by the root mean square over e. ``lam``: a number or a tensor, one or [h]; ``qkv.differential_lambda``
    makes it from four learned vectors.
    Cache per token: h (2d + e), e being 2d in the paper
    Source: Ye et al. 2024, Differential Transformer (arXiv 2410.05258), equations 1 to 3
    """
    return Spec(weights=weights.differential(lam, lambda_init=lambda_init), keep=keep)


def differential_clamped(lam: Tensor | float, *, keep: Keep | None = None) -> Spec:
    """Return differential attention whose weights are weights again: negative ones become 0, rows sum to one.

        out[i] = Σ_j w[i, j] v[j] / Σ_j w[i, j], with w = max(0, softmax(q₁ · k₁ / √d) - λ softmax(q₂ · k₂ / √d))

    Coordinates and ``lam`` as of ``differential``. A row without a positive difference gives 0.
    Cache per token: h (2d + e)
    Source: the weights of Ye et al. 2024 (arXiv 2410.05258), equation 1, clamped and divided by their sum
    """
    return Spec(weights=weights.differential(lam, renormalize="clamp"), keep=keep)
