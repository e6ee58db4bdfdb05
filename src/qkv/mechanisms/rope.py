"""Rotary positions: queries and keys are turned by their positions, so that scores know distances."""

from __future__ import annotations

from ..spec import Spec
from ..terms import position
from ..terms.keep import Keep


def rope(*, theta: float = 10000.0, interleaved: bool = True, keep: Keep | None = None) -> Spec:
    """Return attention with rotary positions: R_m turns pair p of the features by the angle m θ^(-2p/d).

        out[i] = Σ_j softmax_j((R_i q[i]) · (R_j k[j]) / √d) v[j]

    Coordinates: b batch, h heads, i queries, j keys, d features, e value features. ``interleaved``: features 2p and
    2p + 1 form a pair, as in the paper; False pairs p with p + d/2, as checkpoints of transformers do.
    Cache per token: h (d + e), keys turned already or not
    Source: Su et al. 2021, RoFormer (arXiv 2104.09864), equations 14 to 16
    """
    return Spec(position=position.rope(theta, interleaved=interleaved), keep=keep)
