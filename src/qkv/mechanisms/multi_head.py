"""Multi-head attention: several attentions side by side, each on its own slice of the features.

The heads are slices of the feature axis, so that nothing is transposed: the pattern says ``(h d)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..spec import Spec
from ..terms.keep import Keep

if TYPE_CHECKING:
    from torch import Tensor


def multi_head(*, keep: Keep | None = None) -> Spec:
    """Return multi-head attention over merged features: head h attends with its own d features and carries its own e.

        out[i, (h e)] = Σ_j softmax_j(q[i, (h d)] · k[j, (h d)] / √d) v[j, (h e)], for each h

    Coordinates: b batch, h heads, i queries, j keys, d and e features of one head. The call says how many heads:
    ``sizes={"h": 8}``.
    Cache per token: h (d + e)
    Source: Vaswani et al. 2017, Attention Is All You Need (arXiv 1706.03762), section 3.2.2
    """
    return Spec("b i (h d), b j (h d), b j (h e) -> b i (h e)", keep=keep)


def multi_head_projected(
    x: Tensor,
    source: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    *,
    num_heads: int,
    keep: Keep | None = None,
) -> Tensor:
    """Return multi-head attention of ``x`` to ``source`` with its four projections.

        MultiHead(x, s) = concat_h(attention(x W_Q[h], s W_K[h], s W_V[h])) W_O

    Coordinates: ``x`` [batch, queries, model], ``source`` [batch, keys, model]; the projections have the shape of
    ``torch.nn.Linear.weight``, [to, from]. Raises ``SizeMismatch`` when heads do not divide the projected features.
    Source: Vaswani et al. 2017, Attention Is All You Need (arXiv 1706.03762), section 3.2.2
    """
    spec = multi_head(keep=keep)
    return spec(x @ query.T, source @ key.T, source @ value.T, sizes={"h": num_heads}) @ output.T
