"""Masks made of the type's lowest number gave NaN in one kernel (pytorch/pytorch#109517); two of them added overflow
to -inf; and a row of them is the mean of all values, padding included, where it is only added.

qkv's terms read -inf as dropped; the function that transformers' models call reads the lowest number so too.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qkv
from qkv.transformers import qkv_attention, watch
from tests.regressions.plain import answers, close, definition, tensors


class Layer(nn.Module):
    is_causal = False


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_row_of_lowest_numbers_keeps_nothing(dtype: torch.dtype) -> None:
    q, k, v = tensors(4, 5, dtype=dtype)
    kept = torch.tensor([[1, 1, 0, 0, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    mask = torch.zeros(1, 1, 4, 5, dtype=dtype).masked_fill(~kept, torch.finfo(dtype).min)
    with watch.watching(lambda call: None):
        output = qkv_attention(Layer(), q, k, v, mask)[0].transpose(1, 2)
    assert not output[..., 1, :].any()
    close(output, definition(q, k, v, kept=kept)[0], "qkv_attention", 8 * torch.finfo(dtype).eps + 1e-5)


def test_two_lowest_numbers_drop_the_key() -> None:
    q, k, v = tensors(4, 5)
    lowest = torch.finfo(torch.float32).min
    kept = torch.ones(4, 5, dtype=torch.bool).tril(1)
    band = qkv.bias(torch.zeros(4, 5).masked_fill(~kept, lowest), "i j")
    pad = qkv.bias(torch.tensor([0.0, 0.0, 0.0, 0.0, lowest]), "j")
    wanted, _ = definition(q, k, v, kept=kept & (torch.arange(5) < 4))
    for name, result in answers(qkv.Spec(score=(band, pad)), q, k, v):
        close(result.output, wanted, name)
