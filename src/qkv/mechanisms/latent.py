"""Multi-head latent attention: keys and values are rebuilt from one small latent vector for each token.

What is cached is the latent and a rotary key that all heads share; ``latent`` attends to rebuilt keys,
``latent_absorbed`` to the latents themselves, with the same result.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..errors import SpecError
from ..spec import Spec
from ..terms import position
from ..terms.keep import Keep
from ..terms.scaling import Scaling

if TYPE_CHECKING:
    from torch import Tensor


def latent(
    *,
    rotary_size: int = 0,
    content_size: int = 0,
    theta: float = 10000.0,
    scaling: Scaling | None = None,
    keep: Keep | None = None,
    scale: float | None = None,
) -> Spec:
    """Return latent attention over rebuilt keys and values (``latent_keys_values``): its decoupled rotary part first.

        out[h, i] = Σ_j softmax_j(([R_i qʳ; q] · [R_j kʳ[j]; U_K[h] c[j]]) / √d) U_V[h] c[j], with c[j] = D x[j]

    Coordinates: b batch, h heads, i queries, j keys, d = rotary_size + content_size features, e value features. The
    first ``rotary_size`` features are turned by position, the content is not; 0 leaves positions out.
    Cache per token: latent size + rotary_size, for all heads together
    Source: DeepSeek-AI 2024, DeepSeek-V2 (arXiv 2405.04434), equations 9 to 19
    """
    return Spec(position=_rotary(rotary_size, content_size, theta, scaling), keep=keep, scale=scale)


def latent_absorbed(
    *,
    rotary_size: int = 0,
    latent_size: int = 0,
    theta: float = 10000.0,
    scaling: Scaling | None = None,
    keep: Keep | None = None,
    scale: float,
) -> Spec:
    """Return latent attention over the cached latents: multi-query attention whose one key is [kʳ; c] and value is c.

        o[h, i] = Σ_j softmax_j(scale ([R_i qʳ; U_K[h]ᵀ q] · [R_j kʳ[j]; c[j]])) c[j], then out[h, i] = U_V[h] o[h, i]

    Coordinates: b batch, h heads, i queries, j keys, d = rotary_size + latent_size features, e = latent_size.
    ``scale`` is that of the rebuilt keys, 1/√(rotary_size + content_size): the absorbed size says nothing of it.
    Cache per token: latent size + rotary_size
    Source: DeepSeek-AI 2024, DeepSeek-V2 (arXiv 2405.04434), section 2.1.2, on absorbing the up-projections
    """
    rotary = _rotary(rotary_size, latent_size, theta, scaling)
    return Spec("b h i d, b j d, b j e -> b h i e", position=rotary, keep=keep, scale=scale)


def latent_keys_values(
    x: Tensor, down: Tensor, up_key: Tensor, up_value: Tensor, rotary_key: Tensor | None = None, *, num_heads: int
) -> tuple[Tensor, Tensor]:
    """Return the keys [batch, head, key, rotary + content] and values [batch, head, key, value feature] of ``x``.

        c = D x, k[h] = [kʳ; U_K[h] c], v[h] = U_V[h] c, kʳ = W_KR x for all heads

    Coordinates: ``x`` [batch, key, model]; projections as in ``torch.nn.Linear.weight``, [to, from]: ``down``
    [latent, model], ``up_key`` [heads * content, latent], ``up_value`` [heads * e, latent], ``rotary_key``
    [rotary, model].
    Source: DeepSeek-AI 2024, DeepSeek-V2 (arXiv 2405.04434), equations 9 to 11 and 15
    """
    import torch

    compressed = x @ down.T
    keys, values = (
        (compressed @ up.T).reshape(*x.shape[:-1], num_heads, -1).transpose(1, 2) for up in (up_key, up_value)
    )
    if rotary_key is None:
        return keys, values
    shared = (x @ rotary_key.T).unsqueeze(1).expand(-1, num_heads, -1, -1)
    return torch.cat((shared, keys), dim=-1), values


def absorb(q_content: Tensor, up_key: Tensor) -> Tensor:
    """Return queries [batch, head, query, latent] that fit the latents: q · (U_K c) = (U_Kᵀ q) · c.

    Coordinates: ``q_content`` [batch, head, query, content], ``up_key`` [heads * content, latent].
    """
    return q_content @ up_key.reshape(q_content.shape[1], -1, up_key.shape[-1])


def _rotary(rotary_size: int, rest: int, theta: float, scaling: Scaling | None) -> position.Rope | None:
    if rotary_size == 0:
        return None
    if rotary_size < 0 or rotary_size % 2 or rest < 0:
        raise SpecError(
            f"latent: a rotary part of {rotary_size} features beside {rest}.\n"
            "  Features are rotated in pairs; DeepSeek-V2 has 64 beside 128."
        )
    share = rotary_size / (rotary_size + rest)
    fraction = min(1.0, math.nextafter(share, 2.0))  # the product with the size is cut to a whole number: never below
    return position.rope(theta, interleaved=True, fraction=fraction, scaling=scaling, query="i")
