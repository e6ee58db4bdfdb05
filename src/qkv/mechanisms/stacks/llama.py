"""Attention of LLaMA 3: grouped queries, causal, rotary with a large base."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...spec import Spec
from ...terms import masks, position
from ...terms.scaling import Scaling
from ..entry import Entry, Layer
from ..grouped_query import PATTERN

if TYPE_CHECKING:
    from torch import Tensor


def llama_3(*, scaling: Scaling | None = None, documents: Tensor | None = None) -> Spec:
    """Return attention of LLaMA 3: θ = 500,000, for contexts of 8,192 tokens.

        out[(h g), i] = Σ_{j ≤ i} softmax_{j ≤ i}((R_i q[(h g), i]) · (R_j k[h, j]) / √d) v[h, j]

    Coordinates: b batch, h key-value heads, g query heads of each, i queries, j keys, d = e features.
    ``scaling``: LLaMA
    3.1 has ``qkv.scaling.llama3(8, 1, 4, 8192)``. ``documents``: whole numbers [b, j]; in training a token sees its own
    document only.
    Cache per token: h (d + e), of the 8B model 8 (128 + 128) = 2048
    Source: Llama Team 2024, The Llama 3 Herd of Models (arXiv 2407.21783), section 3.2 and table 3
    """
    keep = masks.causal()
    if documents is not None:
        keep = keep & masks.documents(documents)
    return Spec(PATTERN, position=position.rope(500_000.0, scaling=scaling), keep=keep)


LLAMA_3 = Entry("llama-3", "LLaMA 3 8B", "stack", (Layer("", llama_3, {"b": 1, "h": 8, "g": 4, "d": 128, "e": 128}),))
