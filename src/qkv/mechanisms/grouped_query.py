"""Grouped-query attention: groups of query heads, each with one head of keys and values."""

from __future__ import annotations

from ..spec import Spec
from ..terms.keep import Keep

PATTERN = "b (h g) i d, b h j d, b h j e -> b (h g) i e"
"""Query heads in the order of checkpoints: the g heads that share key-value head h stand together."""


def grouped_query(*, keep: Keep | None = None) -> Spec:
    """Return grouped-query attention: the g query heads of a group read the keys and values of their head h.

        out[(h g), i] = Σ_j softmax_j(q[(h g), i] · k[h, j] / √d) v[h, j]

    Coordinates: b batch, h key-value heads, g query heads of each, i queries, j keys, d features, e value features;
    g is solved from the shapes. With g = 1 it is multi-head, with h = 1 multi-query attention.
    Cache per token: h (d + e), g times fewer than multi-head
    Source: Ainslie et al. 2023, GQA (arXiv 2305.13245), section 2.2
    """
    return Spec(PATTERN, keep=keep)
