"""``scale=0.0`` read as "not given" (``scale or 1 / sqrt(d)``), a given scale multiplied by 1 / sqrt(d) once more, and
the value's size taken for the feature's: each is silent.

In qkv None alone means 1 / sqrt(size of the feature), and a number is the scale.
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


@pytest.mark.parametrize("scale", [0.0, 1.0, -0.3, 0.125, None])
def test_a_number_is_the_scale(scale: float | None) -> None:
    q, k, v = tensors(4, 5)
    wanted, lse = definition(q, k, v, scale=scale)
    for want in ((), ("lse",)):
        for name, result in answers(qkv.Spec(scale=scale), q, k, v, want=want):
            close(result.output, wanted, name)
            if result.lse is not None:
                close(result.lse, lse, name)
    with watch.watching(lambda call: None):
        output, _ = qkv_attention(Layer(), q, k, v, None, scaling=scale)
    close(output.transpose(1, 2), wanted, "qkv_attention")


def test_the_default_reads_the_feature_and_not_the_value() -> None:
    q, k, _ = tensors(4, 5, size=8)
    v = torch.randn(2, 2, 5, 32)
    for name, result in answers(qkv.Spec(), q, k, v):
        close(result.output, definition(q, k, v, scale=8**-0.5)[0], name)
