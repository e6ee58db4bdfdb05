"""ALiBi: a penalty that grows linearly with distance, at a slope of each head's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..spec import Spec
from ..terms import score
from ..terms.keep import Keep

if TYPE_CHECKING:
    from torch import Tensor


def alibi(slopes: Tensor | float | None = None, *, keep: Keep | None = None) -> Spec:
    """Return attention with linear biases; nothing about positions is learned.

        out[i] = Σ_j softmax_j(q[i] · k[j] / √d - slope[h] |i - j|) v[j]

    Coordinates: b batch, h heads, i queries, j keys, d features, e value features. ``slopes``: one number, a tensor
    [h], or None for the paper's, 2^(-8 (h+1) / number of heads). The paper's models are causal: ``keep=causal()``.
    Cache per token: h (d + e)
    Source: Press et al. 2022, Train Short, Test Long (arXiv 2108.12409), section 3
    """
    return Spec(score=score.alibi(slopes), keep=keep)
