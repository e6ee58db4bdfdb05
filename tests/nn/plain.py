"""Attention written out in float64 torch, without qkv: what the modules must equal."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """A projection of float64 numbers."""
    y = x @ layer.weight.double().T
    return y if layer.bias is None else y + layer.bias.double()


def heads(x: Tensor, count: int) -> Tensor:
    """[b, position, head * feature] as [b, head, position, feature]."""
    return x.reshape(*x.shape[:2], count, -1).transpose(1, 2)


def rms(x: Tensor, weight: Tensor | float, eps: float) -> Tensor:
    """Features divided by their root mean square."""
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def turn(x: Tensor, positions: Tensor, *, interleaved: bool, theta: float = 10000.0) -> Tensor:
    """Rotary positions over all features of [b, head, position, feature]."""
    size = x.shape[-1]
    angles = positions.double()[..., None] * theta ** (-torch.arange(0, size, 2).double() / size)
    pairs = x.unflatten(-1, (-1, 2)) if interleaved else x.unflatten(-1, (2, -1)).transpose(-1, -2)
    turned = torch.view_as_complex(pairs.contiguous()) * torch.polar(torch.ones_like(angles), angles)
    pairs = torch.view_as_real(turned)
    return pairs.flatten(-2) if interleaved else pairs.transpose(-1, -2).flatten(-2)


def softmax(q: Tensor, k: Tensor, *, kept: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Weights of each query of [b, head, position, feature] over the keys."""
    scores = q @ k.transpose(-1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    return (scores if kept is None else scores.masked_fill(~kept, float("-inf"))).softmax(-1)


def joined(x: Tensor) -> Tensor:
    """[b, head, position, feature] as [b, position, head * feature]."""
    return x.transpose(1, 2).flatten(2)


def causal(length: int) -> Tensor:
    """True where a key stands at or before the query."""
    return torch.ones(length, length, dtype=torch.bool).tril()
