"""Attention of Mistral 7B: grouped queries in a sliding window."""

from __future__ import annotations

from ...spec import Spec
from ...terms import masks, position
from ..entry import Entry, Layer
from ..grouped_query import PATTERN


def mistral(*, window: int = 4096, theta: float = 10_000.0) -> Spec:
    """Return attention of Mistral 7B: each token sees ``window`` keys, its own included.

        out[(h g), i] = Σ_j softmax_j((R_i q[(h g), i]) · (R_j k[h, j]) / √d) v[h, j], over i - window < j ≤ i

    Coordinates: b batch, h key-value heads, g query heads of each, i queries, j keys, d = e features.
    The window is that
    of the checkpoint's code; the paper's figure of it, i - W to i, counts one key more.
    Cache per token: h (d + e) = 8 (128 + 128) = 2048, for the last window tokens only
    Source: Jiang et al. 2023, Mistral 7B (arXiv 2310.06825), section 2 and table 1
    """
    return Spec(PATTERN, position=position.rope(theta), keep=masks.window(window))


MISTRAL = Entry(
    "mistral-7b", "Mistral 7B", "stack", (Layer("", mistral, {"b": 1, "h": 8, "g": 4, "d": 128, "e": 128}),)
)
