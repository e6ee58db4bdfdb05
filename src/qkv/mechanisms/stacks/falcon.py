"""Attention of Falcon: one key-value head for all queries (7B), or one for each group (40B)."""

from __future__ import annotations

from ...spec import Spec
from ...terms import masks, position
from ..entry import Entry, Layer
from ..grouped_query import PATTERN


def falcon_7b() -> Spec:
    """Return attention of Falcon 7B: 71 query heads read one head of keys and values.

        out[h, i] = Σ_{j ≤ i} softmax_{j ≤ i}((R_i q[h, i]) · (R_j k[j]) / √d) v[j]

    Coordinates: b batch, h query heads, i queries, j keys, d = e features.
    Cache per token: d + e = 64 + 64 = 128
    Source: Almazrouei et al. 2023, The Falcon Series of Open Language Models (arXiv 2311.16867), section 4
    """
    return Spec("b h i d, b j d, b j e -> b h i e", position=position.rope(query="i"), keep=masks.causal(query="i"))


def falcon_40b() -> Spec:
    """Return attention of Falcon 40B: multi-query within each of 8 groups, one for each device of a node.

        out[(h g), i] = Σ_{j ≤ i} softmax_{j ≤ i}((R_i q[(h g), i]) · (R_j k[h, j]) / √d) v[h, j]

    Coordinates: b batch, h key-value heads, g query heads of each, i queries, j keys, d = e features.
    Cache per token: h (d + e) = 8 (64 + 64) = 1024
    Source: Almazrouei et al. 2023, The Falcon Series of Open Language Models (arXiv 2311.16867), section 4
    """
    return Spec(PATTERN, position=position.rope(), keep=masks.causal())


FALCON_7B = Entry("falcon-7b", "Falcon 7B", "stack", (Layer("", falcon_7b, {"b": 1, "h": 71, "d": 64, "e": 64}),))
FALCON_40B = Entry(
    "falcon-40b", "Falcon 40B", "stack", (Layer("", falcon_40b, {"b": 1, "h": 8, "g": 16, "d": 64, "e": 64}),)
)
