"""How many parameters a module has, from its sizes alone.

It knows the formulas. It refuses to make a module in order to count.
"""

from __future__ import annotations

from .module import Bias
from .sizes import LatentSizes, head_sizes


def num_attention_parameters(
    d_model: int,
    heads: int,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    *,
    d_memory: int | None = None,
    bias: Bias = False,
    qk_norm: bool = False,
    out_proj: bool = True,
) -> int:
    """Return how many parameters ``Attention``, ``CrossAttention`` or ``LinearAttention`` has: terms are not counted.

    Without the options 2 d_model d (h + h_kv), with d features in each of h query heads and h_kv key heads: 4 d_model²
    for multi-head attention, h_kv = h = d_model / d.

    >>> num_attention_parameters(512, 8) == 4 * 512**2
    True
    >>> num_attention_parameters(4096, 32, 8)  # a layer of Llama 3 8B
    41943040
    """
    sizes = head_sizes("num_attention_parameters", d_model, heads, kv_heads, head_dim)
    source = d_model if d_memory is None else d_memory
    queries, keys = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    weights = d_model * queries + 2 * source * keys + (queries * d_model if out_proj else 0)
    biases = (queries + 2 * keys if bias else 0) + (d_model if bias is True and out_proj else 0)
    return weights + biases + (2 * sizes.head_dim if qk_norm else 0)


def num_latent_parameters(
    d_model: int,
    heads: int,
    *,
    kv_lora_rank: int,
    qk_nope_head_dim: int,
    qk_rope_head_dim: int,
    v_head_dim: int,
    q_lora_rank: int | None = None,
    bias: bool = False,
    latent_norm: bool = True,
) -> int:
    """Return how many parameters ``LatentAttention`` has.

    Queries D h (n + r), or D q + q h (n + r) through a latent of q; keys and values D (c + r) + c h (n + e); output
    h e D, with model D, h heads, n and r features without and with rotation, e value features, a latent of c.

    >>> num_latent_parameters(  # a layer of DeepSeek-V2, its two norms counted
    ...     5120, 128, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, q_lora_rank=1536
    ... )
    149227520
    """
    LatentSizes(
        d_model, heads, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim, q_lora_rank
    ).checked("num_latent_parameters")  # fmt: skip
    features, latent = heads * (qk_nope_head_dim + qk_rope_head_dim), kv_lora_rank + qk_rope_head_dim
    queries = d_model * features if q_lora_rank is None else q_lora_rank * (d_model + features)
    keys_values = d_model * latent + kv_lora_rank * heads * (qk_nope_head_dim + v_head_dim)
    norms = kv_lora_rank + (q_lora_rank or 0) if latent_norm else 0
    biases = (q_lora_rank or 0) + latent + d_model if bias else 0
    return queries + keys_values + heads * v_head_dim * d_model + norms + biases


def num_differential_parameters(
    d_model: int,
    heads: int,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    *,
    bias: Bias = False,
    out_proj: bool = True,
) -> int:
    """Return how many parameters ``DifferentialAttention`` has: projections of 2 ``head_dim``, four vectors, a norm.

    >>> num_differential_parameters(512, 4) - 4 * 512**2  # λ's vectors of 64 each, and a weight of 128
    384
    """
    features = d_model // (2 * heads) if head_dim is None else head_dim
    projections = num_attention_parameters(
        d_model, heads, kv_heads, 2 * features, bias=bias, out_proj=out_proj
    )  # fmt: skip
    return projections + 4 * features + 2 * features
