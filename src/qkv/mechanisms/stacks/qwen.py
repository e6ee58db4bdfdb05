"""Attention of Qwen 2: grouped queries, causal, rotary with a base of a million."""

from __future__ import annotations

from ...spec import Spec
from ...terms import masks, position
from ...terms.scaling import Scaling
from ..entry import Entry, Layer
from ..grouped_query import PATTERN


def qwen_2(*, theta: float = 1_000_000.0, scaling: Scaling | None = None) -> Spec:
    """Return attention of Qwen 2; its projections of q, k and v have biases, which come before.

        out[(h g), i] = Σ_{j ≤ i} softmax_{j ≤ i}((R_i q[(h g), i]) · (R_j k[h, j]) / √d) v[h, j]

    Coordinates: b batch, h key-value heads, g query heads of each, i queries, j keys, d = e features.
    ``scaling``: YaRN
    beyond 32,768 tokens, ``qkv.scaling.yarn(4, 32768)``.
    Cache per token: h (d + e), of the 7B model 4 (128 + 128) = 1024
    Source: Yang et al. 2024, Qwen2 Technical Report (arXiv 2407.10671), section 2.2 and table 1
    """
    return Spec(PATTERN, position=position.rope(theta, scaling=scaling), keep=masks.causal())


QWEN_2 = Entry("qwen-2", "Qwen 2 7B", "stack", (Layer("", qwen_2, {"b": 1, "h": 4, "g": 7, "d": 128, "e": 128}),))
