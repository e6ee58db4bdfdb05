"""Attention of T5: no scale, a learned bias by bucket of distance, the same in all layers of a stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...spec import Spec
from ...terms import masks, score
from ...terms.keep import Keep
from ..entry import Entry, Layer, Sizes

if TYPE_CHECKING:
    from torch import Tensor


def t5_encoder(table: Tensor, *, padding: Tensor | None = None) -> Spec:
    """Return self-attention of T5's encoder: half of the 32 buckets are for keys after the query.

        out[h, i] = Σ_j softmax_j(q[h, i] · k[h, j] + table[bucket(j - i), h]) v[h, j]

    Coordinates: b batch, h heads, i queries, j keys, d = e features. ``table``: [32, h]. ``padding``: a bool tensor
    [b, j], True where there is a token.
    Cache per token: none, an encoder runs once
    Source: Raffel et al. 2020, T5 (arXiv 1910.10683), section 2.1
    """
    keep: Keep | None = None if padding is None else masks.padding(padding, "b j")
    return Spec(score=score.relative_bias(table), keep=keep, scale=1.0)


def t5_decoder(table: Tensor) -> Spec:
    """Return self-attention of T5's decoder: causal, all 32 buckets for keys before the query.

        out[h, i] = Σ_{j ≤ i} softmax_{j ≤ i}(q[h, i] · k[h, j] + table[bucket(j - i), h]) v[h, j]

    Coordinates and ``table`` as of ``t5_encoder``.
    Cache per token: h (d + e), of the base model 12 (64 + 64) = 1536
    Source: Raffel et al. 2020, T5 (arXiv 1910.10683), section 2.1
    """
    return Spec(score=score.relative_bias(table, bidirectional=False), keep=masks.causal(), scale=1.0)


def t5_cross(*, padding: Tensor | None = None) -> Spec:
    """Return cross-attention of T5: neither bias nor scale.

        out[h, t] = Σ_s softmax_s(q[h, t] · k[h, s]) v[h, s]

    Coordinates: b batch, h heads, t target, s source, d = e features. ``padding``: a bool tensor [b, s].
    Cache per token: h (d + e) for each token of the source, none for those of the target
    Source: Raffel et al. 2020, T5 (arXiv 1910.10683), section 2.1
    """
    keep: Keep | None = None if padding is None else masks.padding(padding, "b s")
    return Spec("b h t d, b h s d, b h s e -> b h t e", keep=keep, scale=1.0)


_BASE: Sizes = {"b": 1, "h": 12, "d": 64, "e": 64}


def _table(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    return {"table": (32, sizes["h"])}


T5 = Entry(
    "t5",
    "T5 base",
    "stack",
    (
        Layer("encoder", t5_encoder, _BASE, _table),
        Layer("decoder", t5_decoder, _BASE, _table),
        Layer("cross", t5_cross, {**_BASE, "t": 5}),
    ),
)
