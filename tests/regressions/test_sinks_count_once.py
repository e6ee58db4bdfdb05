"""Learned sinks left out by kernels that do not know them, added once for each block or split of the keys, or left out
of the lse: each is silent, and each shifts weight.

In qkv a sink is one score of the whole row, in the output, in the lse, and in its own gradient, however many keys.
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


@pytest.mark.parametrize("keys", [1, 5, 700])
def test_one_sink_for_a_row_of_any_length(keys: int) -> None:
    q, k, v = tensors(3, keys)
    sink = torch.tensor([2.0, -1.0], requires_grad=True)
    wanted, lse = definition(q, k, v, sink=sink.view(2, 1, 1))
    (gradient,) = torch.autograd.grad(wanted.square().sum(), sink)
    spec = qkv.Spec(weights=qkv.softmax(sink=sink))
    for name, result in answers(spec, q, k, v, want=("lse",)):
        close(result.output, wanted, name)
        assert result.lse is not None
        close(result.lse, lse, name)
        close(torch.autograd.grad(result.output.square().sum(), sink)[0], gradient, name)


def test_the_argument_of_models() -> None:
    q, k, v = tensors(3, 5)
    sink = torch.tensor([2.0, -1.0])
    with watch.watching(lambda call: None):
        output, _ = qkv_attention(Layer(), q, k, v, None, s_aux=sink)
    close(output.transpose(1, 2), definition(q, k, v, sink=sink.view(2, 1, 1))[0], "qkv_attention")


def test_off_by_one_is_a_sink_of_score_zero() -> None:
    q, k, v = tensors(3, 5)
    for name, result in answers(qkv.Spec(weights=qkv.softmax(off_by_one=True)), q, k, v, want=("lse",)):
        wanted, lse = definition(q, k, v, sink=torch.zeros(1, 1))
        close(result.output, wanted, name)
        assert result.lse is not None
        close(result.lse, lse, name)
