"""True means "attend" to one function and "leave out" to another of the same library (rasbt/LLMs-from-scratch#1061),
and a mask of ones and zeros is silently added to the scores (pytorch/pytorch#21518).

In qkv True is kept, everywhere, and a mask whose type does not say what it means is refused.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qkv
from qkv.transformers import qkv_attention, watch
from tests.regressions.plain import answers, close, definition, tensors

KEPT = torch.ones(5, 5, dtype=torch.bool).tril()


class Layer(nn.Module):
    is_causal = False


def test_true_is_kept() -> None:
    q, k, v = tensors(5, 5)
    wanted, _ = definition(q, k, v, kept=KEPT)
    specs = (qkv.padding(KEPT, "i j"), ~qkv.padding(~KEPT, "i j"), qkv.keep(lambda i, j: KEPT[i, j]), qkv.causal())
    for keep in specs:
        for name, result in answers(qkv.Spec(keep=keep), q, k, v):
            close(result.output, wanted, name)
    with watch.watching(lambda call: None):
        output, _ = qkv_attention(Layer(), q, k, v, KEPT[None, None])
    close(output.transpose(1, 2), wanted, "qkv_attention")


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8], ids=str)
def test_ones_and_zeros_are_no_mask(dtype: torch.dtype) -> None:
    with pytest.raises(qkv.DtypeError):
        qkv.padding(KEPT.to(dtype), "i j")


def test_whole_numbers_are_not_added() -> None:
    with pytest.raises(qkv.DtypeError):
        qkv.bias(KEPT.long(), "i j")
    with pytest.raises(qkv.DtypeError), watch.watching(lambda call: None):
        qkv_attention(Layer(), *tensors(5, 5), KEPT.long()[None, None])


def test_a_function_of_a_number_is_no_mask() -> None:
    with pytest.raises(qkv.TraceError):
        qkv.keep(lambda i, j: i - j)
