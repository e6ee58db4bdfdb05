"""Attention of gpt-oss: learned sinks, sliding and full layers in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...spec import Spec
from ...terms import masks, position, weights
from ...terms.scaling import yarn
from ..entry import Entry, Layer, Sizes
from ..grouped_query import PATTERN

if TYPE_CHECKING:
    from torch import Tensor


def _rope() -> position.Rope:
    """θ = 150,000, stretched 32-fold beyond 4,096 positions by YaRN with fractional ends of the ramp."""
    return position.rope(150_000.0, scaling=yarn(32.0, 4096, beta_fast=32.0, beta_slow=1.0, truncate=False))


def gpt_oss_sliding(sinks: Tensor, *, window: int = 128) -> Spec:
    """Return a sliding layer of gpt-oss: 128 keys, and a learned sink in each head's softmax.

        out[(h g), i] = Σ_j exp(s_j) v[h, j] / (Σ_j exp(s_j) + exp(sink[(h g)])), over i - window < j ≤ i

    Coordinates: b batch, h key-value heads, g query heads of each, i queries, j keys, d = e features; s_j =
    (R_i q[(h g), i]) · (R_j k[h, j]) / √d. ``sinks``: a float tensor [(h g)].
    Cache per token: h (d + e) = 8 (64 + 64) = 1024, for the last window tokens only
    Source: OpenAI 2025, gpt-oss-120b & gpt-oss-20b Model Card (arXiv 2508.10925), section 2
    """
    return Spec(PATTERN, position=_rope(), keep=masks.window(window), weights=weights.softmax(sink=sinks))


def gpt_oss_full(sinks: Tensor) -> Spec:
    """Return a full layer of gpt-oss: causal, and a learned sink in each head's softmax.

        out[(h g), i] = Σ_{j ≤ i} exp(s_j) v[h, j] / (Σ_{j ≤ i} exp(s_j) + exp(sink[(h g)]))

    Coordinates, s_j and ``sinks`` as of ``gpt_oss_sliding``.
    Cache per token: h (d + e) = 8 (64 + 64) = 1024
    Source: OpenAI 2025, gpt-oss-120b & gpt-oss-20b Model Card (arXiv 2508.10925), section 2
    """
    return Spec(PATTERN, position=_rope(), keep=masks.causal(), weights=weights.softmax(sink=sinks))


_SIZES: Sizes = {"b": 1, "h": 8, "g": 8, "d": 64, "e": 64}


def _sinks(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    return {"sinks": (sizes["h"] * sizes["g"],)}


GPT_OSS = Entry(
    "gpt-oss",
    "gpt-oss 120B and 20B",
    "stack",
    (Layer("sliding", gpt_oss_sliding, _SIZES, _sinks), Layer("full", gpt_oss_full, _SIZES, _sinks)),
    ("sliding", "full"),
)
