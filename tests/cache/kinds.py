"""Every kind of cache by name, and the attention that a list of tokens would give, without any cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

import qkv
from qkv.cache.codec import decode, encode

WINDOW = 5


@dataclass(frozen=True)
class Kind:
    name: str
    make: Callable[[], qkv.cache.Cache]
    spec: qkv.Spec
    bits: int | None = None
    truncates: bool = True
    recent: int = 0

    def seen(self, x: torch.Tensor, first: int | None = None) -> torch.Tensor:
        """What attention sees of keys or values: what their codes stand for, and from ``first`` on what they are."""
        if self.bits is None:
            return x
        codes, scale = encode(x, self.bits)
        found = decode(codes, scale, self.bits, x.shape[-1], x.dtype)
        first = x.shape[-2] - self.recent if first is None else first
        return torch.cat((found[..., : max(0, first), :], x[..., max(0, first) :, :]), -2)


PATTERN = "b (h g) i d, b h j d, b h j e -> b (h g) i e"
PLAIN = qkv.Spec(PATTERN, keep=qkv.causal())
TURNED = qkv.Spec(PATTERN, keep=qkv.causal(), position=qkv.rope())
WINDOWED = qkv.Spec(PATTERN, keep=qkv.causal() & qkv.window(WINDOW), position=qkv.rope())

KINDS = {
    kind.name: kind
    for kind in (
        Kind("dense", qkv.cache.Dense, TURNED),
        Kind("fixed", lambda: qkv.cache.Dense(capacity=200), TURNED),
        Kind("ring", lambda: qkv.cache.Ring(WINDOW, spare=2), WINDOWED),
        Kind("paged", lambda: qkv.cache.Paged(qkv.cache.PagePool(3)), TURNED),
        Kind("int8", lambda: qkv.cache.Quantized(8, recent=0), PLAIN, bits=8),
        Kind("int4", lambda: qkv.cache.Quantized(4, recent=0), PLAIN, bits=4),
        Kind("ring8", lambda: qkv.cache.Ring(WINDOW, bits=8), qkv.Spec(PATTERN, keep=WINDOWED.keep), bits=8),
        Kind("paged4", lambda: qkv.cache.Paged(qkv.cache.PagePool(3, bits=4)), PLAIN, bits=4),
        Kind(
            "recurrent",
            qkv.cache.Recurrent,
            qkv.Spec(PATTERN, keep=qkv.causal(), weights=qkv.linear(decay=0.9)),
            truncates=False,
        ),
    )
}

RECENT = {
    kind.name: kind
    for kind in (
        Kind("recent8", lambda: qkv.cache.Quantized(8, recent=3), PLAIN, bits=8, recent=3),
        Kind("recent4", lambda: qkv.cache.Quantized(4, recent=1, capacity=200), PLAIN, bits=4, recent=1),
    )
}
"""Caches where what attention sees of a token depends on how many follow it."""

EVERY = {**KINDS, **RECENT}

BATCH, HEADS, GROUP, FEATURE, VALUE = 2, 1, 2, 4, 3


def tokens(count: int, seed: int, batch: int = BATCH) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values of ``count`` tokens, float64."""
    made = torch.Generator().manual_seed(seed)

    def draw(heads: int, size: int) -> torch.Tensor:
        return torch.randn(batch, heads, count, size, generator=made, dtype=torch.float64)

    return draw(HEADS * GROUP, FEATURE), draw(HEADS, FEATURE), draw(HEADS, VALUE)


def prefill(kind: Kind, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, first: int | None = None) -> torch.Tensor:
    """The definition over all tokens at once, for the last queries, without a cache."""
    with qkv.strategy("reference"):
        return kind.spec(q, kind.seen(k, first), kind.seen(v, first), align="end")
