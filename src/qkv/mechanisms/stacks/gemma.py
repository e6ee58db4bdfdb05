"""Attention of Gemma 2 and Gemma 3: local and global layers in turn."""

from __future__ import annotations

from ...spec import Spec
from ...terms import masks, position, score
from ...terms.scaling import Scaling, linear
from ..entry import Entry, Layer, Sizes
from ..grouped_query import PATTERN


def gemma_2_local(*, window: int = 4096, scale: float | None = None) -> Spec:
    """Return a local layer of Gemma 2: a sliding window, and scores capped softly at 50.

        out[(h g), i] = Σ_j softmax_j(50 tanh(scale (R_i q[(h g), i]) · (R_j k[h, j]) / 50)) v[h, j], i - window < j ≤ i

    Coordinates: b batch, h key-value heads, g query heads of each, i queries, j keys, d = e features.
    ``scale``: 1/√d
    where it is None (2B, 9B); the 27B model has 1/√144 beside d = 128.
    Cache per token: h (d + e), of the 9B model 8 (256 + 256) = 4096, for the last window tokens only
    Source: Gemma Team 2024, Gemma 2 (arXiv 2408.00118), section 2 and table 1
    """
    return Spec(PATTERN, position=position.rope(), score=score.softcap(50.0), keep=masks.window(window), scale=scale)


def gemma_2_global(*, scale: float | None = None) -> Spec:
    """Return a global layer of Gemma 2: causal, and scores capped softly at 50.

        out[(h g), i] = Σ_{j ≤ i} softmax_{j ≤ i}(50 tanh(scale (R_i q[(h g), i]) · (R_j k[h, j]) / 50)) v[h, j]

    Coordinates and ``scale`` as of ``gemma_2_local``.
    Cache per token: h (d + e), of the 9B model 8 (256 + 256) = 4096
    Source: Gemma Team 2024, Gemma 2 (arXiv 2408.00118), section 2 and table 1
    """
    return Spec(PATTERN, position=position.rope(), score=score.softcap(50.0), keep=masks.causal(), scale=scale)


def gemma_3_local(*, window: int = 1024, scale: float | None = None) -> Spec:
    """Return a local layer of Gemma 3: a short sliding window, θ = 10,000; queries and keys are normalised before.

        out[(h g), i] = Σ_j softmax_j(scale (R_i q[(h g), i]) · (R_j k[h, j])) v[h, j], over i - window < j ≤ i

    Coordinates: b batch, h key-value heads, g query heads of each, i queries, j keys, d = e features.
    ``window``: 512 in
    the 1B model. ``scale``: 1/√d where it is None; the 27B model has 1/√168 beside d = 128.
    Cache per token: h (d + e), of the 4B model 4 (256 + 256) = 2048, for the last window tokens only
    Source: Gemma Team 2025, Gemma 3 Technical Report (arXiv 2503.19786), section 2
    """
    return Spec(PATTERN, position=position.rope(10_000.0), keep=masks.window(window), scale=scale)


def gemma_3_global(*, scaling: Scaling | None = linear(8.0), scale: float | None = None) -> Spec:  # noqa: B008 # frozen
    """Return a global layer of Gemma 3, every sixth: causal, θ = 1,000,000, positions divided by 8.

        out[(h g), i] = Σ_{j ≤ i} softmax_{j ≤ i}(scale (R_{i/8} q[(h g), i]) · (R_{j/8} k[h, j])) v[h, j]

    Coordinates and ``scale`` as of ``gemma_3_local``. ``scaling=None`` is the 1B model, which has no longer context.
    Cache per token: h (d + e), of the 4B model 4 (256 + 256) = 2048
    Source: Gemma Team 2025, Gemma 3 Technical Report (arXiv 2503.19786), section 2
    """
    return Spec(PATTERN, position=position.rope(1_000_000.0, scaling=scaling), keep=masks.causal(), scale=scale)


_GEMMA_2_9B: Sizes = {"b": 1, "h": 8, "g": 2, "d": 256, "e": 256}
_GEMMA_3_4B: Sizes = {"b": 1, "h": 4, "g": 2, "d": 256, "e": 256}

GEMMA_2 = Entry(
    "gemma-2",
    "Gemma 2 9B",
    "stack",
    (Layer("local", gemma_2_local, _GEMMA_2_9B), Layer("global", gemma_2_global, _GEMMA_2_9B)),
    ("local", "global"),
)
GEMMA_3 = Entry(
    "gemma-3",
    "Gemma 3 4B",
    "stack",
    (Layer("local", gemma_3_local, _GEMMA_3_4B), Layer("global", gemma_3_global, _GEMMA_3_4B)),
    (*("local",) * 5, "global"),
)
