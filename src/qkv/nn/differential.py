"""Differential attention as a module: the difference of two softmax maps, whose weight is learned.

The two maps of a head are run as a group of two query heads over one key head that holds both keys: each query is 0
where the other map's key stands, so that every strategy and every cache serves, and keys are kept once. It knows the
paper's parameters; it refuses to know how a group is run.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qkv
from qkv import SizeMismatch, SpecError

from .attention import Score
from .module import Bias, HeadsModule, Positions, attend, flat, parted, places
from .sizes import HeadSizes, head_sizes, whole


class DifferentialAttention(HeadsModule):
    """Differential attention: two maps from two halves of each head, the second subtracted as noise.

        out[i] = (1 - λ_init) norm(Σ_j (softmax_j(q₁[i] · k₁[j] / √d) - λ softmax_j(q₂[i] · k₂[j] / √d)) v[j])

    Coordinates: x is ``..b i model``; ``heads`` query heads with 2d features and values, d = ``head_dim``, by default
    ``d_model / (2 heads)``; b is all batch axes merged. λ = exp(λ_q1 · λ_k1) - exp(λ_q2 · λ_k2) + λ_init from four
    learned vectors. λ_init is ``lambda_init``, or 0.8 - 0.6 exp(-0.3 (layer - 1)) for a ``layer`` counted from 1.
    ``position`` turns each half by itself. The norm has a learned weight by feature, ``subln``. In 16-bit types both
    maps' outputs are rounded before they are subtracted, as in the paper's own code. Other arguments are those of
    ``Attention``. Raises ``SpecError`` and ``SizeMismatch`` for sizes and parts that do not fit.
    Source: Ye et al. 2024, Differential Transformer (arXiv 2410.05258), equations 1 to 3

    >>> layer = qkv.nn.DifferentialAttention(64, 4, layer=3, keep=qkv.causal())
    >>> layer(torch.randn(3, 10, 64)).shape
    torch.Size([3, 10, 64])
    """

    lambda_q1: nn.Parameter
    lambda_k1: nn.Parameter
    lambda_q2: nn.Parameter
    lambda_k2: nn.Parameter

    def __init__(
        self,
        d_model: int,
        heads: int,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        *,
        layer: int = 1,
        lambda_init: float | None = None,
        position: qkv.Rope | None = None,
        score: Score = None,
        keep: qkv.Keep | None = None,
        scale: float | None = None,
        bias: Bias = False,
        norm_eps: float = 1e-5,
        out_proj: bool = True,
        dropout: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        sizes = _sizes(d_model, heads, kv_heads, head_dim)
        self.map_size = sizes.head_dim // 2
        spec = qkv.Spec(
            dataclasses.replace(sizes, heads=2 * heads).pattern,
            position=_by_half(position, self.map_size),
            score=score,
            keep=keep,
            scale=1 / math.sqrt(self.map_size) if scale is None else scale,
        )
        super().__init__(
            sizes, spec, bias=bias, out_proj=out_proj, dropout=dropout, device=device, dtype=dtype
        )  # fmt: skip
        whole(self._name, layer=layer)
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * (layer - 1)) if lambda_init is None else lambda_init
        self.halves = position is not None and not position.interleaved
        for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
            drawn = torch.empty(self.map_size, device=device, dtype=dtype).normal_(0, 0.1)
            self.register_parameter(name, nn.Parameter(drawn))
        self.subln = nn.RMSNorm(sizes.head_dim, norm_eps, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Projections and λ's vectors are drawn anew: Xavier's uniform distribution, and N(0, 0.1²) as in the paper."""
        super().reset_parameters()
        for name, vector in self.named_parameters(recurse=False):
            if name.startswith("lambda_"):
                nn.init.normal_(vector, 0, 0.1)

    def lam(self) -> Tensor:
        """λ, from the four vectors as they are now; a number by gradient."""
        vectors = (self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2)
        return qkv.differential_lambda(*vectors, lambda_init=self.lambda_init)

    def forward(
        self, x: Tensor, *, cache: Any = None, positions: Positions = None, keep: qkv.Keep | None = None
    ) -> Tensor:
        """The output, of the shape of ``x``; the arguments are those of ``Attention``."""
        tokens, lead = flat(self._name, x, self.sizes.d_model)
        options = places(self._name, positions, x.shape[:-1], ("i", "j"))
        if self.training and self.dropout:
            options["dropout"] = self.dropout
        if cache is not None:
            options["cache"] = cache
        q, k, v = (self.heads_of(layer, None, tokens) for layer in (self.q_proj, self.k_proj, self.v_proj))
        maps = attend(self.spec, self._paired(self._apart(q)), self._paired(k), v, keep, options)
        maps = maps.reshape(*maps.shape[:-2], self.sizes.heads, 2, self.sizes.head_dim)
        output = maps[..., 0, :] - self.lam().to(maps.dtype) * maps[..., 1, :]
        return self.finish(self.subln(output) * (1 - self.lambda_init), lead)

    def _apart(self, q: Tensor) -> Tensor:
        """Two queries for each head, one after the other: each 0 where the other map's key stands."""
        size = self.map_size
        first, second = F.pad(q[..., :size], (0, size)), F.pad(q[..., size:], (size, 0))
        return torch.stack((first, second), dim=-2).flatten(-3, -2)

    def _paired(self, x: Tensor) -> Tensor:
        """Features so that each half keeps its own pairs: the first partners of both maps, then the second ones."""
        return parted(x, 2, 2, self.map_size // 2).transpose(-3, -2).flatten(-3) if self.halves else x

    def extra_repr(self) -> str:
        """The coordinates, their sizes, λ_init, and the spec."""
        first, _, rest = super().extra_repr().partition("\n")
        return f"{first}, lambda_init={self.lambda_init:.4g}\n{rest}"


def _sizes(d_model: int, heads: int, kv_heads: int | None, head_dim: int | None) -> HeadSizes:
    """Sizes whose ``head_dim`` holds both maps."""
    owner = "DifferentialAttention"
    whole(owner, d_model=d_model, heads=heads)
    if head_dim is None and d_model % (2 * heads):
        raise SizeMismatch(
            f"{owner}: d_model={d_model} is not divided by 2 x heads={heads}, and head_dim is not given.\n"
            "  Each head has two maps: the paper halves the number of heads of softmax attention."
        )
    features = d_model // (2 * heads) if head_dim is None else head_dim
    whole(owner, head_dim=features)
    return head_sizes(owner, d_model, heads, kv_heads, 2 * features)


def _by_half(position: qkv.Rope | None, size: int) -> qkv.Rope | None:
    """``position`` for two maps side by side, each turned as if it stood alone."""
    if position is None:
        return None
    if position.fraction != 1.0 or position.sections is not None:
        raise SpecError(
            f"DifferentialAttention: position={position!r} has a fraction or sections.\n"
            "  Each map is turned as a whole: give qkv.rope(theta), with any scaling."
        )
    return dataclasses.replace(position, sections=(size // 2, size // 2), section_layout="axial")
