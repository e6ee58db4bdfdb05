"""The definition in plain float64 torch, and a spec's answers from every strategy that can run it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import qkv
from qkv import Result, Spec


def tensors(
    queries: int = 6, keys: int = 6, heads: int = 2, size: int = 8, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [2, heads, queries or keys, size]."""
    return tuple(torch.randn(2, heads, n, size).to(dtype) for n in (queries, keys, keys))  # type: ignore[return-value]


def definition(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    kept: Tensor | None = None,
    bias: Tensor | float = 0.0,
    scale: float | None = None,
    cap: float | None = None,
    sink: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output and lse [..., query, e] and [..., query] in float64; ``sink`` broadcasts to [..., query, 1]."""
    q, k, v = q.double(), k.double(), v.double()
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores if cap is None else cap * torch.tanh(scores / cap)
    scores = scores + bias
    if kept is not None:
        scores = scores.masked_fill(~kept, -math.inf)
    lse = scores.logsumexp(-1)
    if sink is not None:
        lse = torch.logaddexp(lse, sink.double().expand(*lse.shape, 1)[..., 0])
    weights = (scores - lse.clamp(min=-1e300).unsqueeze(-1)).exp()  # a row that keeps nothing has weights 0
    return weights @ v, lse


def answers(
    spec: Spec, q: Tensor, k: Tensor, v: Tensor, *, want: tuple[str, ...] = (), **options: Any
) -> Iterator[tuple[str, Result]]:
    """The result of each strategy that does not refuse the call; ``reference`` and ``chunked`` never do."""
    for name in qkv.strategies():
        try:
            with qkv.strategy(name):
                result = spec.run(q, k, v, want=want, **options)
        except qkv.Refused:
            assert name not in ("reference", "chunked"), name
            continue
        yield name, result


def close(ours: Tensor, wanted: Tensor, name: str, tolerance: float = 2e-5) -> None:
    """Asserts that ``ours`` is ``wanted``, naming the strategy."""
    torch.testing.assert_close(
        ours.double(), wanted.double(), rtol=tolerance, atol=tolerance, msg=lambda said: f"{name}: {said}"
    )
