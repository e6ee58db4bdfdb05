"""How scores become weights: the ``weights`` part of a spec.

Softmax (with sinks or off by one), sigmoid, differential and linear weights. A term is data and a few graphs; how sums
are taken is the strategies' matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import SpecError
from .expr import Captured, Constant, Lookup, Node
from .numbers import by_head, finite, positive
from .scope import Claim, Scope
from .worded import Worded

if TYPE_CHECKING:
    from torch import Tensor

    from ..coords import Named

FeatureMap = Literal["elu1", "relu", "exp", "identity"] | Callable[["Tensor"], "Tensor"]
FEATURE_MAPS = ("elu1", "relu", "exp", "identity")


class Weights(Worded):
    """How scores become weights."""


def head_value(term: str, value: Captured | float, scope: Scope, head: str | None) -> Node:
    """One number for all heads, or the head's own: a constant, a 0-d lookup, or a lookup by head."""
    if not isinstance(value, Captured):
        return Constant(float(value))
    if len(value.tensor.shape) == 0:
        return Lookup(value, ())
    heads = scope.heads(term, head)
    scope.claims.append(Claim(term, value, (heads,)))
    return Lookup(value, (scope.flat(heads),))


@dataclass(frozen=True, slots=True)
class Softmax(Weights):
    """``exp(s) / sum exp(s)``, with an optional sink that takes weight and carries no value."""

    sink: Captured | float | None = None
    off_by_one: bool = False
    head: str | None = None

    def sink_node(self, scope: Scope) -> Node | None:
        """The sink's score, by head; None without a sink. Off by one is a sink of score 0."""
        if self.off_by_one:
            return Constant(0.0)
        return None if self.sink is None else head_value("softmax", self.sink, scope, self.head)

    def __repr__(self) -> str:
        return (
            "softmax(off_by_one=True)"
            if self.off_by_one
            else "softmax()"
            if self.sink is None
            else f"softmax(sink={self.sink!r})"
        )


def softmax(
    *, sink: Tensor | Named | float | None = None, off_by_one: bool = False, head: str | None = None
) -> Weights:
    """``exp(s_j) / (sum_j exp(s_j) + exp(sink))``; without a sink the ordinary softmax.

    ``sink``: one score for all heads or a float tensor with one for each query head (learned sinks of gpt-oss;
    gradients flow). ``off_by_one`` is a sink of score 0. A row that keeps nothing gives 0. Raises ``SpecError`` when
    both are given. Source: Xiao et al. 2023 (sinks), OpenAI 2025 gpt-oss model card (learned sinks), Miller 2023 (off
    by one).

    >>> softmax(sink=0.0)
    softmax(sink=0.0)
    """
    if sink is not None and off_by_one:
        raise SpecError(
            "softmax: sink and off_by_one are both given, and off by one is a sink of score 0.\n  Give one of them."
        )
    if sink is None:
        return Softmax(None, off_by_one, head)
    made, heads = by_head("softmax", "sink", sink, head)
    return Softmax(made, off_by_one, heads)


@dataclass(frozen=True, slots=True)
class Sigmoid(Weights):
    """``1 / (1 + exp(-(s + bias)))`` for each key on its own."""

    bias: float

    def __repr__(self) -> str:
        return f"sigmoid(bias={self.bias:g})"


def sigmoid(bias: float = 0.0) -> Weights:
    """``1 / (1 + exp(-(s_j + bias)))`` for each kept key on its own; rows do not sum to one and there is no lse.

    A bias of ``-log(number of keys)`` keeps the sum near that of a softmax. Source: Ramapuram et al. 2024, Theory,
    Analysis, and Best Practices for Sigmoid Self-Attention.

    >>> sigmoid(-3.0)
    sigmoid(bias=-3)
    """
    return Sigmoid(finite("sigmoid", "bias", bias))


@dataclass(frozen=True, slots=True)
class Differential(Weights):
    """The difference of two softmaxes."""

    lam: Captured | float
    lambda_init: float | None
    branch: str | None
    renormalize: Literal["clamp"] | None
    eps: float
    head: str | None

    def __repr__(self) -> str:
        parts = [repr(self.lam) if isinstance(self.lam, Captured) else f"{self.lam:g}"]
        parts += [f"lambda_init={self.lambda_init:g}"] if self.lambda_init is not None else []
        parts += [f'renormalize="{self.renormalize}"'] if self.renormalize else []
        return f"differential({', '.join(parts)})"


def differential(
    lam: Tensor | Named | float,
    *,
    lambda_init: float | None = None,
    renormalize: Literal["clamp"] | None = None,
    branch: str | None = None,
    eps: float = 1e-5,
    head: str | None = None,
) -> Weights:
    """``softmax(s1) - lam * softmax(s2)``: two maps from two halves of the features, the second subtracted as noise.

    The feature coordinate is split in half (first half: first map), or ``branch`` names a feature coordinate of size 2;
    the default scale is that of one half. ``lam``: a number, or a float tensor (one, or one for each query head;
    gradients flow; ``qkv.differential_lambda`` computes it from four vectors). Paper form: with ``lambda_init`` each
    head's output is divided by its root mean square (``eps`` added under the root) and multiplied by ``1 -
    lambda_init``. ``renormalize="clamp"``: negative differences become 0 and each row is divided by its sum; a row
    without positive ones gives 0. Raises ``SpecError`` when both forms are asked for. Source: Ye et al. 2024,
    Differential Transformer, equations 1 to 3.

    >>> import qkv, torch
    >>> q = k = torch.randn(1, 2, 4, 16)
    >>> v = torch.randn(1, 2, 4, 8)
    >>> qkv.attention(q, k, v, weights=qkv.differential(0.5, lambda_init=0.2)).shape
    torch.Size([1, 2, 4, 8])
    """
    if lambda_init is not None and renormalize is not None:
        raise SpecError(
            'differential: lambda_init (the paper form) and renormalize="clamp" are both given.\n'
            "  Give one of them, or neither for the plain difference."
        )
    if renormalize not in (None, "clamp"):
        raise SpecError(f'differential: renormalize={renormalize!r} is not known.\n  Known: None, "clamp".')
    init = None if lambda_init is None else finite("differential", "lambda_init", lambda_init)
    made, heads = by_head("differential", "lam", lam, head)
    return Differential(
        made,
        init,
        branch,
        renormalize,
        positive("differential", "eps", eps),
        heads,
    )


def differential_lambda(query_1: Tensor, key_1: Tensor, query_2: Tensor, key_2: Tensor, lambda_init: float) -> Tensor:
    """``exp(q1 . k1) - exp(q2 . k2) + lambda_init``: the reparameterised lambda from four learned vectors over their
    last axis.

    Source: Ye et al. 2024, equation 2; ``lambda_init = 0.8 - 0.6 exp(-0.3 (layer - 1))`` for layers counted from 1
    (equation 3).

    >>> import qkv, torch
    >>> qkv.differential_lambda(*torch.zeros(4, 2, 8), lambda_init=0.2)  # two heads
    tensor([0.2000, 0.2000])
    """
    return (
        (query_1 * key_1).sum(-1).exp()
        - (query_2 * key_2).sum(-1).exp()
        + finite("differential_lambda", "lambda_init", lambda_init)
    )


@dataclass(frozen=True, slots=True)
class Linear(Weights):
    """``phi(q) . phi(k)``, optionally decaying with distance, optionally divided by the row's sum."""

    feature_map: FeatureMap
    decay: Captured | float | None
    normalize: bool
    head: str | None

    def map(self, x: Tensor) -> Tensor:
        """``phi``, applied over the last axis."""
        import torch

        if callable(self.feature_map):
            return self.feature_map(x)
        match self.feature_map:
            case "elu1":
                return torch.nn.functional.elu(x) + 1
            case "relu":
                return torch.relu(x)
            case "exp":
                return torch.exp(x)
            case _:
                return x

    def __repr__(self) -> str:
        name = (
            self.feature_map if isinstance(self.feature_map, str) else getattr(self.feature_map, "__name__", "function")
        )
        decay = "" if self.decay is None else f", decay={self.decay!r}"
        return f'linear("{name}"{decay}{"" if self.normalize else ", normalize=False"})'


def _is_map(value: object) -> bool:
    return value in FEATURE_MAPS if isinstance(value, str) else callable(value)


def linear(
    feature_map: FeatureMap = "elu1",
    *,
    decay: Tensor | float | None = None,
    normalize: bool = True,
    head: str | None = None,
) -> Weights:
    """``phi(q) . phi(k_j)`` as weights, divided by their sum: linear cost in the number of keys when the mask is causal
    or full.

    ``feature_map``: ``"elu1"`` (elu + 1), ``"relu"``, ``"exp"``, ``"identity"``, or a function over the last axis.
    ``decay`` in (0, 1]: each weight is multiplied by ``decay ** |i - j|``, one number or one for each query head
    (retention); the range is checked for a number, not for a tensor's values. ``normalize=False`` leaves the sum out,
    as the identity map needs, whose weights may sum to 0. There is no scale, and score terms and ``scale=`` are
    refused by the spec. A row that keeps nothing gives 0. Source: Katharopoulos et al. 2020, Transformers are RNNs,
    equations 4 to 9; Sun et al. 2023, Retentive Network (decay).

    >>> import qkv, torch
    >>> q = k = v = torch.randn(1, 2, 300, 8)
    >>> spec = qkv.Spec(keep=qkv.causal(), weights=qkv.linear())
    >>> spec.plan(q, k, v).strategy
    'linear'
    """
    if not _is_map(feature_map):
        raise SpecError(
            f"linear: feature_map={feature_map!r} is not known.\n"
            f"  Known: {', '.join(FEATURE_MAPS)}, or a function over the last axis."
        )
    if feature_map == "identity" and normalize:
        raise SpecError(
            "linear: weights of the identity map may sum to 0, so rows cannot be divided by their sums.\n"
            "  Give normalize=False, or a map with positive values."
        )
    if isinstance(decay, int | float) and not 0 < decay <= 1:
        raise SpecError(
            f"linear: decay={decay!r} must lie in (0, 1].\n  1 means no decay; the weight at distance n is decay ** n."
        )
    if decay is None:
        return Linear(feature_map, None, normalize, head)
    made, heads = by_head("linear", "decay", decay, head)
    return Linear(feature_map, made, normalize, heads)
