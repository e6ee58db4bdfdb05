"""Scaled dot-product attention: the definition that every other one changes in one place."""

from __future__ import annotations

from ..spec import Spec


def scaled_dot_product(*, scale: float | None = None) -> Spec:
    """Return scaled dot-product attention: each query takes the mean of the values, weighted by how well the keys fit.

        out[i] = Σ_j softmax_j(q[i] · k[j] / √d) v[j]

    Coordinates: b batch, i queries, j keys, d features, e value features. ``scale`` replaces 1/√d.
    Cache per token: d + e
    Source: Vaswani et al. 2017, Attention Is All You Need (arXiv 1706.03762), equation 1
    """
    return Spec("b i d, b j d, b j e -> b i e", scale=scale)
