"""pytorch/pytorch#41508: with a padding mask and a windowed mask, rows outside of every sequence keep nothing; their
output is not used, and yet their NaN makes the gradient of every weight NaN, because 0 * NaN is NaN.

qkv: such rows have gradients of exactly 0.
"""

from __future__ import annotations

import pytest
import torch

import qkv


@pytest.mark.parametrize("strategy", ("reference", "chunked"))
def test_gradients_of_shared_weights_are_finite(strategy: str) -> None:
    x = torch.rand(2, 1, 4, 3)
    weight = torch.randn(3, 3, requires_grad=True)
    padded = torch.tensor([[True, True, True, True], [True, True, False, False]])
    projected = x @ weight
    with qkv.strategy(strategy):
        output = qkv.attention(projected, projected, projected, keep=qkv.window(2) & qkv.padding(padded))
    assert (output[1, 0, 3] == 0).all(), "position 3 sees positions 2 and 3 only, and both are padding"
    (slope,) = torch.autograd.grad(output[padded[:, None]].sum(), weight)
    assert slope.isfinite().all()
    assert (slope != 0).any()
