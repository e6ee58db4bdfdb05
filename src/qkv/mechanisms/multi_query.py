"""Multi-query attention: many query heads, one head of keys and values."""

from __future__ import annotations

from ..spec import Spec
from ..terms.keep import Keep


def multi_query(*, keep: Keep | None = None) -> Spec:
    """Return multi-query attention: all query heads read the same keys and values, which simply have no ``h``.

        out[h, i] = Σ_j softmax_j(q[h, i] · k[j] / √d) v[j]

    Coordinates: b batch, h query heads, i queries, j keys, d features, e value features.
    Cache per token: d + e, h times fewer than multi-head
    Source: Shazeer 2019, Fast Transformer Decoding: One Write-Head is All You Need (arXiv 1911.02150), section 3
    """
    return Spec("b h i d, b j d, b j e -> b h i e", keep=keep)
