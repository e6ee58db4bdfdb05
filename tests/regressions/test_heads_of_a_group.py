"""Grouped-query attention with the key heads tiled (0 1 0 1) where checkpoints mean repeated ones (0 0 1 1): the
shapes agree and every output is wrong. onnx/onnx#7274 and apple/axlearn#842.

qkv's pattern says which: ``(h g)`` repeats, ``(g h)`` tiles.
"""

from __future__ import annotations

import pytest
import torch

import qkv
from tests.regressions.plain import answers, close, definition

REPEATED = "b (h g) i d, b h j d, b h j e -> b (h g) i e"
TILED = "b (g h) i d, b h j d, b h j e -> b (g h) i e"


@pytest.mark.parametrize(
    ("pattern", "order"), [(REPEATED, [0, 0, 0, 1, 1, 1]), (TILED, [0, 1, 0, 1, 0, 1])], ids=["repeated", "tiled"]
)
def test_which_key_head_a_query_head_reads(pattern: str, order: list[int]) -> None:
    q, k, v = torch.randn(2, 6, 4, 8), torch.randn(2, 2, 4, 8), torch.randn(2, 2, 4, 8)
    wanted, _ = definition(q, k[:, order], v[:, order])
    for name, result in answers(qkv.Spec(pattern), q, k, v):
        close(result.output, wanted, name)


def test_the_gradient_is_summed_over_the_group() -> None:
    q, k, v = (torch.randn(2, n, 4, 8, requires_grad=True) for n in (6, 2, 2))
    wanted = torch.autograd.grad(definition(q, *(x.repeat_interleave(3, 1) for x in (k, v)))[0].square().sum(), (k, v))
    for name, result in answers(qkv.Spec(REPEATED), q, k, v):
        for ours, theirs in zip(torch.autograd.grad(result.output.square().sum(), (k, v)), wanted, strict=True):
            close(ours, theirs, name)


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(qkv.SizeMismatch):
        qkv.attention(torch.randn(1, 5, 4, 8), torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 8), REPEATED)
