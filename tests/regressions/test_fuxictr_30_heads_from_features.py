"""reczoo/FuxiCTR#30, jsbaan/transformer-from-scratch#6: features viewed as heads without a transpose. The shapes fit,
and each head reads pieces of several positions.

qkv: a merged axis is spelled where it stands, so that there is no reshape to get wrong.
"""

from __future__ import annotations

import pytest
import torch

import qkv


@pytest.mark.parametrize("strategy", ("reference", "chunked", "sdpa"))
def test_heads_are_split_from_the_features(strategy: str) -> None:
    x, y = torch.randn(2, 5, 12), torch.randn(2, 5, 12)
    with qkv.strategy(strategy):
        found = qkv.attention(x, y, y, "b i (h d), b j (h d), b j (h e) -> b i (h e)", sizes={"h": 3})
    q, k = (z.unflatten(-1, (3, 4)).transpose(1, 2) for z in (x, y))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, k).transpose(1, 2).flatten(2)
    torch.testing.assert_close(found, expected)


def test_a_size_that_nothing_settles_is_asked_for() -> None:
    x = torch.randn(2, 5, 12)
    with pytest.raises(qkv.SizeMismatch, match="Give the size beside the pattern"):
        qkv.attention(x, x, x, "b i (h d), b j (h d), b j (h e) -> b i (h e)")
