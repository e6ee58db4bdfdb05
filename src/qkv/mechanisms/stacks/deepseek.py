"""Attention of DeepSeek-V2: latent keys and values, a decoupled rotary part stretched by YaRN."""

from __future__ import annotations

import math

from ...spec import Spec
from ...terms import masks
from ...terms.scaling import yarn
from ..entry import Entry, Layer
from ..latent import latent

ROTARY_SIZE, CONTENT_SIZE = 64, 128
STRETCH = 40.0
"""The context is stretched 40-fold beyond 4,096 positions; see section 3.1.4."""


def deepseek_v2() -> Spec:
    """Return attention of DeepSeek-V2 over rebuilt keys, each the 64 shared rotary features first, then 128 own ones.

        out[h, i] = Σ_{j ≤ i} softmax_{j ≤ i}(t² ([R_i qʳ; q] · [R_j kʳ[j]; k[h, j]]) / √192) v[h, j]

    Coordinates: b batch, h heads, i queries, j keys, d = 64 + 128 features, e = 128 value features; t =
    0.0707 ln 40 + 1. Keys and values are made from latents of size 512 by ``latent_keys_values``.
    Cache per token: 512 + 64 = 576, for all heads together
    Source: DeepSeek-AI 2024, DeepSeek-V2 (arXiv 2405.04434), sections 2.1, 3.1.2 and 3.1.4
    """
    sharper = (0.0707 * math.log(STRETCH) + 1.0) ** 2
    return latent(
        rotary_size=ROTARY_SIZE,
        content_size=CONTENT_SIZE,
        theta=10_000.0,
        scaling=yarn(STRETCH, 4096, beta_fast=32.0, beta_slow=1.0, mscale=0.707, mscale_all_dim=0.707),
        keep=masks.causal(),
        scale=sharper / math.sqrt(ROTARY_SIZE + CONTENT_SIZE),
    )


DEEPSEEK_V2 = Entry(
    "deepseek-v2",
    "DeepSeek-V2",
    "stack",
    (Layer("", deepseek_v2, {"b": 1, "h": 128, "d": ROTARY_SIZE + CONTENT_SIZE, "e": 128}),),
)
