"""Linear attention: a product of feature maps in place of the exponential, so that sums over keys can be kept."""

from __future__ import annotations

from ..spec import Spec
from ..terms import masks, weights


def linear(feature_map: weights.FeatureMap = "elu1", *, causal: bool = False) -> Spec:
    """Return linear attention: cost and memory grow with the number of keys, not of pairs.

        out[i] = Σ_j (φ(q[i]) · φ(k[j])) v[j] / Σ_j φ(q[i]) · φ(k[j]), with φ(x) = elu(x) + 1

    Coordinates: b batch, h heads, i queries, j keys, d features, e value features. ``feature_map``: ``"elu1"``,
    ``"relu"``, ``"exp"`` or a function over the features. ``causal`` sums over j ≤ i.
    Cache per token: none; a state of h d (e + 1) for all of them
    Source: Katharopoulos et al. 2020, Transformers are RNNs (arXiv 2006.16236), equations 4 to 7
    """
    return Spec(keep=masks.causal() if causal else None, weights=weights.linear(feature_map))
