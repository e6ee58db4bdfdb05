"""Relative position bias: a learned number for each distance, added to the scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..spec import Spec
from ..terms import score
from ..terms.keep import Keep

if TYPE_CHECKING:
    from torch import Tensor


def relative_position_bias(table: Tensor, *, buckets: str = "clip", keep: Keep | None = None) -> Spec:
    """Return attention with a learned bias by distance.

        out[i] = Σ_j softmax_j(q[i] · k[j] / √d + table[bucket(j - i)]) v[j]

    Coordinates: b batch, h heads, i queries, j keys, d features, e value features. ``table`` is [buckets] or
    [buckets, h]; ``buckets="clip"``: 2k+1 rows for the distances -k..k, clipped; ``"t5"``: logarithmic beyond a few.
    Raises ``SpecError`` for a table without rows enough.
    Cache per token: h (d + e)
    Source: Raffel et al. 2020, T5 (arXiv 1910.10683), section 2.1; after Shaw et al. 2018 (arXiv 1803.02155)
    """
    return Spec(score=score.relative_bias(table, buckets=buckets), keep=keep)
