"""Sliding-window attention: a query sees its neighbours."""

from __future__ import annotations

from ..spec import Spec
from ..terms import masks


def sliding_window(left: int = 1, right: int = 1) -> Spec:
    """Return attention within a window: ``left`` neighbours before the query, itself, ``right`` after it.

        out[i] = Σ_j softmax_j(q[i] · k[j] / √d) v[j], over i - left ≤ j ≤ i + right

    Coordinates: b batch, h heads, i queries, j keys, d features, e value features. ``right=0`` is the causal form.
    Raises ``SpecError`` for negative counts.
    Cache per token: h (d + e), for the last left + 1 tokens only
    Source: Beltagy et al. 2020, Longformer (arXiv 2004.05150), section 3.1
    """
    return Spec(keep=masks.window(left, right))
