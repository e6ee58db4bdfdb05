"""Attention in plain torch, float64, one head at a time: the papers' formulas, sharing nothing with qkv."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Mask = Callable[[int, int], bool]
Change = Callable[[int, Tensor], Tensor]


def mask(queries: int, keys: int, keep: Mask) -> Tensor:
    """[query, key], True where kept."""
    return torch.tensor([[keep(i, j) for j in range(keys)] for i in range(queries)])


def distances(queries: int, keys: int) -> Tensor:
    """j - i."""
    return torch.arange(keys)[None, :] - torch.arange(queries)[:, None]


def soft(scores: Tensor, kept: Tensor | None = None, sink: float | None = None) -> Tensor:
    """exp over the sum of exp, term by term, without a maximum: the scores of these tests are small."""
    weights = scores.exp()
    if kept is not None:
        weights = weights * kept
    total = weights.sum(-1, keepdim=True)
    return weights / (total if sink is None else total + math.exp(sink))


def one_head(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    kept: Tensor | None = None,
    scale: float | None = None,
    change: Callable[[Tensor], Tensor] = lambda scores: scores,
    sink: float | None = None,
) -> Tensor:
    """[query, value feature] from [query, feature], [key, feature], [key, value feature]."""
    scores = (q @ k.T) * (q.shape[-1] ** -0.5 if scale is None else scale)
    return soft(change(scores), kept, sink) @ v


def per_head(q: Tensor, k: Tensor, v: Tensor, head: Callable[[int, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """``head`` for each batch entry and query head of [batch, head, position, feature]; keys are shared by groups."""
    group = q.shape[1] // k.shape[1]
    return torch.stack(
        [
            torch.stack([head(h, q[b, h], k[b, h // group], v[b, h // group]) for h in range(q.shape[1])])
            for b in range(q.shape[0])
        ]
    )


def turned(x: Tensor, frequencies: list[float], *, interleaved: bool, factor: float = 1.0) -> Tensor:
    """[position, feature] with its first features turned, pair by pair, by position times frequency."""
    out = x.clone()
    half = len(frequencies)
    for position in range(x.shape[0]):
        for pair, frequency in enumerate(frequencies):
            first, second = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + half)
            c, s = math.cos(position * frequency) * factor, math.sin(position * frequency) * factor
            out[position, first] = x[position, first] * c - x[position, second] * s
            out[position, second] = x[position, first] * s + x[position, second] * c
    return out


def ladder(theta: float, size: int) -> list[float]:
    """The frequencies of ``size`` rotated features."""
    return [theta ** (-2 * pair / size) for pair in range(size // 2)]


def alibi_slopes(heads: int) -> list[float]:
    """The published recursion: the nearest lower power of two, then every other slope of twice as many heads."""

    def power_of_two(n: int) -> list[float]:
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start * start**i for i in range(n)]

    if math.log2(heads).is_integer():
        return power_of_two(heads)
    nearest = 2 ** math.floor(math.log2(heads))
    return power_of_two(nearest) + alibi_slopes(2 * nearest)[0::2][: heads - nearest]


def t5_bucket(relative: int, *, bidirectional: bool, buckets: int = 32, max_distance: int = 128) -> int:
    """The bucket of ``key position - query position``, after the published function."""
    found = 0
    if bidirectional:
        buckets //= 2
        found += buckets if relative > 0 else 0
        relative = abs(relative)
    else:
        relative = max(-relative, 0)
    exact = buckets // 2
    if relative < exact:
        return found + relative
    large = exact + int(math.log(relative / exact) / math.log(max_distance / exact) * (buckets - exact))
    return found + min(large, buckets - 1)


def head_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Divided by the root mean square over the last axis."""
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
