"""Causal attention: no query sees what comes after it."""

from __future__ import annotations

from ..spec import Spec
from ..terms import masks


def causal() -> Spec:
    """Return causal attention: a query sees the keys up to its own position.

        out[i] = Σ_{j ≤ i} softmax_{j ≤ i}(q[i] · k[j] / √d) v[j]

    Coordinates: b batch, h heads, i queries, j keys, d features, e value features.
    Cache per token: h (d + e)
    Source: Vaswani et al. 2017, Attention Is All You Need (arXiv 1706.03762), section 3.2.3
    """
    return Spec(keep=masks.causal())
