"""huggingface/transformers#29623, #39408, #26792, vllm-project/vllm#3385: a sliding window of w is w keys in one
backend and w + 1 in another, and which one a model was trained with is anybody's guess.

qkv: ``window(w)`` keeps w keys, the query's own included, in every strategy; ``window(left, right)`` counts neighbours.
"""

from __future__ import annotations

import pytest
import torch

import qkv


@pytest.mark.parametrize("strategy", ("reference", "chunked"))
@pytest.mark.parametrize("width", (1, 2, 8, 2048))
def test_a_window_is_as_wide_as_it_says(width: int, strategy: str) -> None:
    length = 40
    q, k, v = torch.zeros(length, 2), torch.zeros(length, 2), torch.eye(length)
    with qkv.strategy(strategy):
        kept = qkv.attention(q, k, v, "i d, j d, j e -> i e", keep=qkv.window(width)).gt(0).sum(-1)
        both = qkv.attention(q, k, v, "i d, j d, j e -> i e", keep=qkv.window(width, 0)).gt(0).sum(-1)
    assert kept.equal(torch.arange(1, length + 1).clamp(max=width))
    assert both.equal(torch.arange(1, length + 1).clamp(max=width + 1))


def test_decoding_sees_the_window_that_prefill_sees() -> None:
    q, k, v = (torch.randn(1, 1, 30, 4) for _ in range(3))
    spec = qkv.Spec(keep=qkv.window(5))
    whole = spec(q, k, v)
    for n in range(30):
        token = spec(q[:, :, n : n + 1], k[:, :, : n + 1], v[:, :, : n + 1], align="end")
        torch.testing.assert_close(token, whole[:, :, n : n + 1])
