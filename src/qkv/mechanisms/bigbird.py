"""BigBird: a window, a few global tokens and a few random keys."""

from __future__ import annotations

from ..spec import Spec
from ..terms.bigbird import bigbird as mask


def bigbird(*, window: int = 1, num_global: int = 1, num_random: int = 1, block_size: int = 1, seed: int = 0) -> Spec:
    """Return BigBird attention: linear cost, and any two tokens are a few steps apart.

        out[i] = Σ_j softmax_j(q[i] · k[j] / √d) v[j], over |i - j| ≤ window, or i or j global, or j ∈ random(i)

    Coordinates: b batch, h heads, i queries, j keys, d features, e value features. Counts are in blocks of
    ``block_size`` positions; the first ``num_global`` blocks are global; random blocks follow from ``seed``.
    Raises ``SpecError`` for negative counts.
    Cache per token: h (d + e)
    Source: Zaheer et al. 2020, Big Bird (arXiv 2007.14062), section 2
    """
    keep = mask(window=window, num_global=num_global, num_random=num_random, block_size=block_size, seed=seed)
    return Spec(keep=keep)
