"""Attention of BLOOM: ALiBi for 112 heads, which is no power of two."""

from __future__ import annotations

from ...spec import Spec
from ...terms import masks, score
from ..entry import Entry, Layer


def bloom() -> Spec:
    """Return attention of BLOOM: causal, a penalty by distance in place of positions.

        out[h, i] = Σ_{j ≤ i} softmax_{j ≤ i}(q[h, i] · k[h, j] / √d - slope[h] (i - j)) v[h, j]

    Coordinates: b batch, h heads, i queries, j keys, d = e features. Slopes are ALiBi's own, ``qkv.alibi_slopes(112)``.
    Cache per token: h (d + e) = 112 (128 + 128) = 28672
    Source: BigScience Workshop 2022, BLOOM (arXiv 2211.05100), section 3.2
    """
    return Spec(score=score.alibi(), keep=masks.causal())


BLOOM = Entry("bloom", "BLOOM 176B", "stack", (Layer("", bloom, {"b": 1, "h": 112, "d": 128, "e": 128}),))
