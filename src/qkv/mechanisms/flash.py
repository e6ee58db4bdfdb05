"""Flash attention: not another definition but another way to run scaled dot-product attention."""

from __future__ import annotations

from ..spec import Spec
from .scaled_dot_product import scaled_dot_product


def flash(*, scale: float | None = None) -> Spec:
    """Return the spec that flash attention computes: scaled dot-product attention, equal to it and hence the same spec.

        for each j: m' = max(m, s_j), z' = z exp(m - m') + exp(s_j - m'), o' = o exp(m - m') + exp(s_j - m') v[j]; o / z

    What differs is the strategy: scores are made block by block, a running maximum m and sum z stand for the row
    (Milakov and Gimelshein 2018), and no matrix of weights is ever held. Any spec runs that way:
    ``with qkv.strategy("chunked")``.
    Cache per token: d + e
    Source: Dao et al. 2022, FlashAttention (arXiv 2205.14135), algorithm 1
    """
    return scaled_dot_product(scale=scale)
