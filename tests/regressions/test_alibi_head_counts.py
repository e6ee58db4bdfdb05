"""ALiBi's slopes for head counts that are not a power of two: the formula for powers applied to 12 heads gives slopes
that no checkpoint was trained with; and distances counted from the corner, not from positions, shift in a cache.

qkv follows the published code for every count, and compares positions.
"""

from __future__ import annotations

import math

import pytest
import torch

import qkv
from tests.regressions.plain import answers, close, definition, tensors


def published(heads: int) -> list[float]:
    """The slopes as in the paper's code, recursive."""
    if math.log2(heads).is_integer():
        start = 2 ** (-(2 ** -(math.log2(heads) - 3)))
        return [start * start**n for n in range(heads)]
    closest = 2 ** math.floor(math.log2(heads))
    return published(closest) + published(2 * closest)[0::2][: heads - closest]


@pytest.mark.parametrize("heads", [*range(1, 34), 40, 112])
def test_slopes_of_every_head_count(heads: int) -> None:
    assert qkv.alibi_slopes(heads) == pytest.approx(published(heads), rel=1e-12)


@pytest.mark.parametrize("heads", [3, 8, 12])
def test_the_term_uses_them_and_positions(heads: int) -> None:
    q, k, v = tensors(2, 7, heads)
    distance = (torch.arange(5, 7)[:, None] - torch.arange(7)).abs()
    bias = -torch.tensor(published(heads), dtype=torch.float64)[:, None, None] * distance
    kept = torch.ones(2, 7, dtype=torch.bool).tril(5)
    wanted, _ = definition(q, k, v, kept=kept, bias=bias)
    for name, result in answers(qkv.Spec(score=qkv.alibi(), keep=qkv.causal()), q, k, v, align="end"):
        close(result.output, wanted, name)


def test_groups_take_their_query_heads_slopes() -> None:
    q, k, v = torch.randn(1, 12, 5, 8), torch.randn(1, 4, 5, 8), torch.randn(1, 4, 5, 8)
    pattern = "b (h g) i d, b h j d, b h j e -> b (h g) i e"
    distance = (torch.arange(5)[:, None] - torch.arange(5)).abs()
    bias = -torch.tensor(published(12), dtype=torch.float64)[:, None, None] * distance
    wanted, _ = definition(q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1), bias=bias)
    for name, result in answers(qkv.Spec(pattern, score=qkv.alibi()), q, k, v):
        close(result.output, wanted, name)
