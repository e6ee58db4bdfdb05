"""Multi-head latent attention as a module: keys and values are rebuilt from one small latent vector for each token.

It knows the projections of DeepSeek-V2 and V3, under the names of their checkpoints, and the two forms: over rebuilt
keys, and absorbed, over the latents themselves. It refuses to know how a cache stores them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn

import qkv
from qkv import SpecError

from .module import Positions, attend, draw, flat, parted, places
from .sizes import LatentSizes, share

EXPANDED = "b i h d, b j h d, b j h e -> b i h e"
ABSORBED = "b i (u h) d, b j u d, b j u e -> b i (u h) e"
"""One key ``u`` for all heads, which stand as its group, so that ``i`` alone is a sequence."""


class LatentAttention(nn.Module):
    """Multi-head latent attention (MLA), with the parameters of DeepSeek-V2 and V3 under their checkpoints' names.

        c[j] = norm(D x[j]), k[h, j] = [R_j kʳ[j]; U_K[h] c[j]], v[h, j] = U_V[h] c[j], q[h, i] = [R_i qʳ[h]; q[h]]

    Coordinates: x is ``..b i model``; h ``heads``, d = ``qk_rope_head_dim + qk_nope_head_dim``, e = ``v_head_dim``; b
    is all batch axes merged. ``kv_lora_rank`` is the latent's size; ``q_lora_rank`` gives queries one of their own.
    ``position`` turns the rotary part alone: ``qkv.rope(interleaved=True)`` unless given. ``scale``: None for 1/√d.
    ``bias`` is that of ``q_a_proj``, ``kv_a_proj_with_mqa`` and ``o_proj``; ``latent_norm=False`` leaves the norms of
    latents out. Without a cache keys are rebuilt; with ``absorbed=True`` queries go through the up-projection and
    attend to latents, which gives the same; ``new_cache()`` holds ``kv_lora_rank + qk_rope_head_dim`` numbers for each
    token. Raises ``SpecError`` for sizes or parts that do not fit.
    Source: DeepSeek-AI 2024, DeepSeek-V2 (arXiv 2405.04434), equations 9 to 19

    >>> layer = qkv.nn.LatentAttention(
    ...     64, 4, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8, keep=qkv.causal()
    ... )
    >>> layer(torch.randn(3, 10, 64)).shape
    torch.Size([3, 10, 64])
    """

    def __init__(
        self,
        d_model: int,
        heads: int,
        *,
        kv_lora_rank: int,
        qk_nope_head_dim: int,
        qk_rope_head_dim: int,
        v_head_dim: int,
        q_lora_rank: int | None = None,
        position: qkv.Rope | None = None,
        keep: qkv.Keep | None = None,
        scale: float | None = None,
        bias: bool = False,
        latent_norm: bool = True,
        norm_eps: float = 1e-6,
        dropout: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        sizes = LatentSizes(
            d_model, heads, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim, q_lora_rank
        ).checked("LatentAttention")
        self.sizes, self.dropout = sizes, share("LatentAttention", dropout)
        rotary, nope = qk_rope_head_dim, qk_nope_head_dim
        turn = qkv.rope(interleaved=True) if position is None and rotary else position
        self.scale = 1 / math.sqrt(rotary + nope) if scale is None else scale
        self.spec = qkv.Spec(EXPANDED, position=_rotary(turn, rotary, nope), keep=keep, scale=self.scale)
        self.absorbed_spec = qkv.Spec(
            ABSORBED, position=_rotary(turn, rotary, kv_lora_rank), keep=keep, scale=self.scale
        )
        made = {"device": device, "dtype": dtype}
        if q_lora_rank is None:
            self.q_proj = nn.Linear(d_model, heads * (nope + rotary), bias=False, **made)
        else:
            self.q_a_proj = nn.Linear(d_model, q_lora_rank, bias=bias, **made)
            self.q_a_layernorm = nn.RMSNorm(q_lora_rank, norm_eps, **made) if latent_norm else None
            self.q_b_proj = nn.Linear(q_lora_rank, heads * (nope + rotary), bias=False, **made)
        self.kv_a_proj_with_mqa = nn.Linear(d_model, kv_lora_rank + rotary, bias=bias, **made)
        self.kv_a_layernorm = nn.RMSNorm(kv_lora_rank, norm_eps, **made) if latent_norm else None
        self.kv_b_proj = nn.Linear(kv_lora_rank, heads * (nope + v_head_dim), bias=False, **made)
        self.o_proj = nn.Linear(heads * v_head_dim, d_model, bias=bias, **made)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Projections are drawn anew: Xavier's uniform distribution, biases 0. Norms become 1."""
        for layer in self.children():
            draw(layer)

    def queries(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The rotary and the other part of the queries of ``x`` [b, i, model], each [b, i, head, feature]."""
        if self.sizes.q_lora_rank is None:
            found = self.q_proj(x)
        else:
            latent = self.q_a_proj(x)
            found = self.q_b_proj(latent if self.q_a_layernorm is None else self.q_a_layernorm(latent))
        nope, rotary = self.sizes.qk_nope_head_dim, self.sizes.qk_rope_head_dim
        heads = parted(found, self.sizes.heads, nope + rotary)
        return heads[..., nope:], heads[..., :nope]

    def latents(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The rotary key that all heads share, not yet turned, and the latent of ``x``, each [b, j, feature]."""
        made: Tensor = self.kv_a_proj_with_mqa(x)
        latent, rotary = made[..., : self.sizes.kv_lora_rank], made[..., self.sizes.kv_lora_rank :]
        return rotary, latent if self.kv_a_layernorm is None else self.kv_a_layernorm(latent)

    def forward(
        self,
        x: Tensor,
        *,
        cache: Any = None,
        positions: Positions = None,
        keep: qkv.Keep | None = None,
        absorbed: bool = False,
    ) -> Tensor:
        """The output, of the shape of ``x``. ``cache``, ``positions`` and ``keep`` as of ``Attention``.

        ``cache``: the one of ``new_cache``, which keeps each latent once and rebuilds keys where that is cheaper; any
        other keeps latents as keys and as values. With a cache, or ``absorbed``, attention is over the latents, else
        over rebuilt keys.
        """
        tokens, lead = flat("LatentAttention", x, self.sizes.d_model)
        options = places("LatentAttention", positions, x.shape[:-1], ("i", "j"))
        if self.training and self.dropout:
            options["dropout"] = self.dropout
        if cache is not None:
            options["cache"] = cache
        form = self._absorbed if absorbed or cache is not None else self._expanded
        form = self._cached if isinstance(cache, qkv.cache.Latent) else form
        output = self.o_proj(form(*self.queries(tokens), *self.latents(tokens), keep, options).flatten(-2))
        return output if len(lead) == 1 else output.reshape(*lead, *output.shape[1:])

    def new_cache(self) -> qkv.cache.Latent:
        """Return an empty cache of latents and rotary keys, for this module with its up-projections as they are now."""
        up_key, up_value = self._ups()
        return qkv.cache.Latent(up_key.detach().contiguous(), up_value.detach().contiguous())

    def _ups(self) -> tuple[Tensor, Tensor]:
        """The ways up from a latent to keys and to values, each [head, feature, latent]."""
        nope, rank = self.sizes.qk_nope_head_dim, self.sizes.kv_lora_rank
        up = self.kv_b_proj.weight.reshape(self.sizes.heads, nope + self.sizes.v_head_dim, rank)
        return up[:, :nope], up[:, nope:]

    def _cached(
        self, q_rotary: Tensor, q_nope: Tensor, rotary: Tensor, latent: Tensor, keep: Any, options: dict[str, Any]
    ) -> Tensor:
        return attend(self.spec, torch.cat((q_rotary, q_nope), dim=-1), latent, rotary, keep, options)

    def _expanded(
        self, q_rotary: Tensor, q_nope: Tensor, rotary: Tensor, latent: Tensor, keep: Any, options: dict[str, Any]
    ) -> Tensor:
        size = self.sizes.qk_nope_head_dim
        rebuilt = parted(self.kv_b_proj(latent), self.sizes.heads, size + self.sizes.v_head_dim)
        nope, values = rebuilt[..., :size], rebuilt[..., size:]
        shared = rotary.unsqueeze(-2).expand(-1, -1, self.sizes.heads, -1)
        q, k = torch.cat((q_rotary, q_nope), dim=-1), torch.cat((shared, nope), dim=-1)
        return attend(self.spec, q, k, values, keep, options)

    def _absorbed(
        self, q_rotary: Tensor, q_nope: Tensor, rotary: Tensor, latent: Tensor, keep: Any, options: dict[str, Any]
    ) -> Tensor:
        up_key, up_value = self._ups()
        q = torch.cat((q_rotary, torch.einsum("bihd,hdr->bihr", q_nope, up_key)), dim=-1)
        k = torch.cat((rotary, latent), dim=-1).unsqueeze(2)
        mixed = attend(self.absorbed_spec, q, k, latent.unsqueeze(2), keep, options)
        return torch.einsum("bihr,her->bihe", mixed, up_value)

    def extra_repr(self) -> str:
        """The coordinates, their sizes, and the spec."""
        dropout = f", dropout={self.dropout:g}" if self.dropout else ""
        return f'"..b i model" -> "..b i model", {self.sizes}{dropout}\n{self.spec!r}'


def _rotary(position: qkv.Rope | None, rotary: int, rest: int) -> qkv.Rope | None:
    """``position`` for the first ``rotary`` of ``rotary + rest`` features."""
    if position is None:
        return None
    if position.fraction != 1.0 or not rotary:
        raise SpecError(
            f"LatentAttention: position={position!r} beside qk_rope_head_dim={rotary}.\n"
            "  The rotary part has a size of its own, all of which is turned: leave fraction out, and position too "
            "where the size is 0."
        )
    if not rest:
        return position
    # the product with the size is cut to a whole number, which must not fall below
    return dataclasses.replace(position, fraction=min(1.0, math.nextafter(rotary / (rotary + rest), 2.0)))
