"""Cross-attention: queries of one sequence, keys and values of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..spec import Spec
from ..terms import masks

if TYPE_CHECKING:
    from torch import Tensor


def cross(*, padding: Tensor | None = None) -> Spec:
    """Return cross-attention: each target position reads the whole source. Positions of the two are never compared.

        out[t] = Σ_s softmax_s(q[t] · k[s] / √d) v[s]

    Coordinates: b batch, h heads, t target, s source, d features, e value features. ``padding``: a bool tensor
    [b, s], True where the source has a token.
    Cache per token: h (d + e) for each token of the source, none for those of the target
    Source: Vaswani et al. 2017, Attention Is All You Need (arXiv 1706.03762), section 3.2.3
    """
    keep = None if padding is None else masks.padding(padding, "b s")
    return Spec("b h t d, b h s d, b h s e -> b h t e", keep=keep)
