"""Linear attention as a module: one pass over a sequence, or one token at a time with a state of fixed size.

It knows both forms and where a step's token stands. It refuses to know how sums over keys are taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

import qkv
from qkv import ShapeError, SpecError

from .attention import Attention
from .module import Bias, flat

FeatureMap = Literal["elu1", "relu", "exp", "identity"] | Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class LinearMemory:
    """What a ``LinearAttention`` remembers: the ``state`` of its heads, and the ``length`` of what it has seen."""

    state: qkv.LinearState
    length: int


class LinearAttention(Attention):
    """Linear attention: weights φ(q) · φ(k) in place of the exponential, so that sums over keys can be kept.

    Coordinates: x is ``..b i model``; heads as of ``Attention``. ``feature_map``, ``decay`` (a number, or a tensor with
    one for each query head) and ``normalize`` are those of ``qkv.linear``; ``causal=False`` lets every token see all.
    ``forward`` takes a sequence at once, ``step`` one token with the memory of those before; both give the same. Raises
    ``SpecError`` and ``SizeMismatch`` for sizes that do not fit, and what ``qkv.linear`` raises.
    Source: Katharopoulos et al. 2020 (arXiv 2006.16236), equations 4 to 9; Sun et al. 2023 (arXiv 2307.08621) for decay

    >>> layer = qkv.nn.LinearAttention(64, 8, decay=0.9)
    >>> x = torch.randn(3, 2, 64)
    >>> first, memory = layer.step(x[:, :1])
    >>> second, memory = layer.step(x[:, 1:], memory)
    >>> torch.allclose(torch.cat((first, second), 1), layer(x), atol=1e-5)
    True
    """

    def __init__(
        self,
        d_model: int,
        heads: int,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        *,
        feature_map: FeatureMap = "elu1",
        decay: Tensor | float | None = None,
        normalize: bool = True,
        causal: bool = True,
        position: qkv.Rope | None = None,
        bias: Bias = False,
        qk_norm: bool = False,
        norm_eps: float = 1e-6,
        out_proj: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        weights = qkv.linear(feature_map, decay=decay, normalize=normalize)
        super().__init__(
            d_model,
            heads,
            kv_heads,
            head_dim,
            position=position,
            keep=qkv.causal() if causal else None,
            weights=weights,
            bias=bias,
            qk_norm=qk_norm,
            norm_eps=norm_eps,
            out_proj=out_proj,
            device=device,
            dtype=dtype,
        )
        self.step_spec = qkv.Spec(self.spec.pattern, keep=self.spec.keep, weights=weights) if causal else None

    def step(self, x: Tensor, memory: LinearMemory | None = None) -> tuple[Tensor, LinearMemory]:
        """The output for the next token ``x`` [..b, 1, model], and the memory with it added.

        ``memory`` is what the step before returned, None at the first token. Raises ``SpecError`` without ``causal``,
        ``ShapeError`` for another number of tokens, and what ``qkv.linear_step`` raises for another state.
        """
        if self.step_spec is None:
            raise SpecError(
                "LinearAttention: a step is asked of a module with causal=False, whose tokens see those after them.\n"
                "  Give the whole sequence to the module itself."
            )
        tokens, lead = flat(self._name, x, self.sizes.d_model)
        if tokens.shape[1] != 1:
            raise ShapeError(
                f"LinearAttention: a step takes one token, and x has {tokens.shape[1]}, shape {tuple(x.shape)}.\n"
                "  Give [..b, 1, model]; the module itself takes a sequence."
            )
        q, k, v = self.project(tokens)
        length = 0 if memory is None else memory.length
        if self.spec.position is not None:
            place = torch.tensor([[[length]]], device=x.device)
            q, k = (self.spec.position.rotate(part, place, length=length + 1) for part in (q, k))
        state = None if memory is None else memory.state
        output, state = qkv.linear_step(self.step_spec, q, k, v, state)
        return self.finish(output, lead), LinearMemory(state, length + 1)
