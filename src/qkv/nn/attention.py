"""Self-attention and cross-attention as modules: projections around a spec.

It knows where queries, keys and values come from. It refuses to know what is attended, which the spec says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

import qkv
from qkv import SizeMismatch

from .module import Bias, HeadsModule, Positions, attend, flat, places
from .sizes import head_sizes, whole

Score = qkv.ScoreTerm | Iterable[qkv.ScoreTerm] | None


class Attention(HeadsModule):
    """Self-attention: ``q_proj``, ``k_proj``, ``v_proj``, the spec of the four parts, ``o_proj``.

    Coordinates: x is ``..b i model``; the spec's pattern is ``b i (h g) d, b j h d, b j h e -> b i (h g) e`` with h =
    ``kv_heads``, g = ``heads / kv_heads``, and without g where they are equal; b is all batch axes merged.
    ``position``, ``score``, ``keep``, ``weights``, ``scale``: the parts of a ``qkv.Spec``, whose captured
    ``nn.Parameter`` become parameters of the module. ``bias``: for all projections, or ``"qkv"``. ``qk_norm``: queries
    and keys are divided by their root mean square in each head, before they are turned. ``out_proj=False`` returns the
    heads side by side. ``dropout``: the share of weights dropped while training. Weights are drawn by Xavier's uniform
    distribution. Raises ``SpecError`` and ``SizeMismatch`` for sizes that do not fit, and what a ``qkv.Spec`` raises.
    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.2.2; Ainslie et al. 2023 (arXiv 2305.13245) for kv_heads.

    >>> layer = qkv.nn.Attention(64, 8, kv_heads=2, position=qkv.rope(), keep=qkv.causal())
    >>> layer(torch.randn(3, 10, 64)).shape
    torch.Size([3, 10, 64])
    """

    def __init__(
        self,
        d_model: int,
        heads: int,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        *,
        position: qkv.Rope | None = None,
        score: Score = None,
        keep: qkv.Keep | None = None,
        weights: qkv.Weights | None = None,
        scale: float | None = None,
        bias: Bias = False,
        qk_norm: bool = False,
        norm_eps: float = 1e-6,
        out_proj: bool = True,
        dropout: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        sizes = head_sizes(type(self).__name__, d_model, heads, kv_heads, head_dim)
        spec = qkv.Spec(sizes.pattern, position=position, score=score, keep=keep, weights=weights, scale=scale)
        super().__init__(
            sizes,
            spec,
            bias=bias,
            qk_norm=qk_norm,
            norm_eps=norm_eps,
            out_proj=out_proj,
            dropout=dropout,
            device=device,
            dtype=dtype,
        )

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of ``x`` [b, position, model], each [b, position, head, feature], not yet turned."""
        return (
            self.heads_of(self.q_proj, self.q_norm, x),
            self.heads_of(self.k_proj, self.k_norm, x),
            self.heads_of(self.v_proj, None, x),
        )

    def forward(
        self, x: Tensor, *, cache: Any = None, positions: Positions = None, keep: qkv.Keep | None = None
    ) -> Tensor:
        """The output, of the shape of ``x``.

        ``cache``: one of ``qkv.cache``, to which the keys and values of ``x`` are appended before ``x`` attends to all
        that it holds; positions then come from it. ``positions``: where the tokens of ``x`` stand: the first one's, or
        a tensor with one for each. ``keep``: a mask for this call alone, beside the spec's: ``qkv.padding(mask, "b
        j")``, where b is all batch axes merged. Raises ``ShapeError`` or ``SizeMismatch`` for an ``x`` that does not
        fit.
        """
        tokens, lead = flat(self._name, x, self.sizes.d_model)
        options = places(self._name, positions, x.shape[:-1], ("i", "j"))
        if self.training and self.dropout:
            options["dropout"] = self.dropout
        if cache is not None:
            options["cache"] = cache
        q, k, v = self.project(tokens)
        return self.finish(self._attend(q, k, v, keep, options), lead)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, keep: qkv.Keep | None, options: dict[str, Any]) -> Tensor:
        return attend(self.spec, q, k, v, keep, options)


class CrossAttention(HeadsModule):
    """Cross-attention: queries from x, keys and values from a memory of another length and, with ``d_memory``, width.

    Coordinates: x ``..b i model``, the memory ``..b j memory``; the spec's pattern and all other arguments are those of
    ``Attention``. A memory that many queries attend to is projected once: ``project_memory``, then ``attend``. Raises
    ``SpecError`` and ``SizeMismatch`` for sizes that do not fit, and what a ``qkv.Spec`` raises.
    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.2.3

    >>> layer = qkv.nn.CrossAttention(64, 8, d_memory=32)
    >>> layer(torch.randn(3, 10, 64), torch.randn(3, 7, 32)).shape
    torch.Size([3, 10, 64])
    """

    def __init__(
        self,
        d_model: int,
        heads: int,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        *,
        d_memory: int | None = None,
        position: qkv.Rope | None = None,
        score: Score = None,
        keep: qkv.Keep | None = None,
        weights: qkv.Weights | None = None,
        scale: float | None = None,
        bias: Bias = False,
        qk_norm: bool = False,
        norm_eps: float = 1e-6,
        out_proj: bool = True,
        dropout: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        sizes = head_sizes(type(self).__name__, d_model, heads, kv_heads, head_dim)
        self.d_memory = d_model if d_memory is None else d_memory
        whole(type(self).__name__, d_memory=self.d_memory)
        spec = qkv.Spec(sizes.pattern, position=position, score=score, keep=keep, weights=weights, scale=scale)
        super().__init__(
            sizes,
            spec,
            d_memory=self.d_memory,
            bias=bias,
            qk_norm=qk_norm,
            norm_eps=norm_eps,
            out_proj=out_proj,
            dropout=dropout,
            device=device,
            dtype=dtype,
        )

    def project_memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a memory ``..b j memory``, each [b, key, head, feature], for ``attend``."""
        tokens, _ = flat(self._name, memory, self.d_memory, "the memory")
        keys = self.heads_of(self.k_proj, self.k_norm, tokens)
        return keys, self.heads_of(self.v_proj, None, tokens)

    def attend(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        positions: Mapping[str, Any] | None = None,
        keep: qkv.Keep | None = None,
    ) -> Tensor:
        """The output for ``x`` over keys and values that ``project_memory`` returned."""
        tokens, lead = flat(self._name, x, self.sizes.d_model)
        options = places(self._name, positions, x.shape[:-1], ())
        if self.training and self.dropout:
            options["dropout"] = self.dropout
        q = self.heads_of(self.q_proj, self.q_norm, tokens)
        return self.finish(attend(self.spec, q, keys, values, keep, options), lead)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        *,
        positions: Mapping[str, Any] | None = None,
        keep: qkv.Keep | None = None,
    ) -> Tensor:
        """The output, of the shape of ``x``; every batch axis of the memory is one of ``x``.

        ``positions``: by coordinate, ``{"i": ..., "j": ...}``. ``keep``: a mask for this call alone, beside the spec's:
        ``qkv.padding(mask, "b j")``. Raises ``ShapeError`` or ``SizeMismatch`` for tensors that do not fit.
        """
        if memory.shape[:-2] != x.shape[:-2]:
            raise SizeMismatch(
                f"CrossAttention: x has the batch axes {tuple(x.shape[:-2])}, the memory {tuple(memory.shape[:-2])}.\n"
                "  Both have the same: nothing is broadcast."
            )
        return self.attend(x, *self.project_memory(memory), positions=positions, keep=keep)

    def extra_repr(self) -> str:
        """The coordinates, their sizes, and the spec."""
        own = super().extra_repr()
        return own.replace('"..b i model" ->', '"..b i model", "..b j memory" ->').replace(
            f"model={self.sizes.d_model}", f"model={self.sizes.d_model} memory={self.d_memory}"
        )
