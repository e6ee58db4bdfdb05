"""A query whose mask drops every key gave NaN (pytorch/pytorch#103963; ml-explore/mlx#2608), or the mean of all values
where the mask held a large negative number instead of -inf.

qkv gives exactly 0 and an lse of exactly -inf, whichever way the keys are dropped.
"""

from __future__ import annotations

import math

import pytest
import torch

import qkv
from tests.regressions.plain import answers, close, definition, tensors

KEPT = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
WAYS = {
    "padding": qkv.Spec(keep=qkv.padding(KEPT, "i j")),
    "bias of -inf": qkv.Spec(score=qkv.bias(torch.zeros(4, 4).masked_fill(~KEPT, -math.inf), "i j")),
    "function": qkv.Spec(keep=qkv.keep(lambda i, j: KEPT[i, j])),
    "after a cap": qkv.Spec(score=qkv.softcap(1e6), keep=qkv.padding(KEPT, "i j")),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("want", [(), ("lse",)])
def test_zero_and_minus_infinity(way: str, want: tuple[str, ...]) -> None:
    q, k, v = tensors(4, 4)
    wanted, lse = definition(q, k, v, kept=KEPT)
    for name, result in answers(WAYS[way], q, k, v, want=want):
        assert not result.output[..., 1, :].any() and not result.output[..., 3, :].any(), name
        close(result.output, wanted, name)
        if result.lse is not None:
            close(result.lse, lse, name)


def test_a_sink_does_not_bring_the_row_back() -> None:
    q, k, v = tensors(4, 4)
    spec = qkv.Spec(keep=qkv.padding(KEPT, "i j"), weights=qkv.softmax(sink=0.5))
    for name, result in answers(spec, q, k, v, want=("lse",)):
        assert not result.output[..., [1, 3], :].any(), name
        assert result.lse is not None and bool((result.lse[..., [1, 3]] == -math.inf).all()), name
