"""One query without keys made every gradient of the batch NaN, even when its output was left out of the loss: 0 * NaN
on the way back (pytorch/pytorch#41508, open since 2020).

qkv's gradients of such a row are exactly 0, and the others' are what they are without it.
"""

from __future__ import annotations

import math

import pytest
import torch

import qkv
from tests.regressions.plain import answers, close, definition, tensors

KEPT = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1]], dtype=torch.bool)
SPECS = {
    "keep": qkv.Spec(keep=qkv.padding(KEPT, "i j")),
    "bias of -inf": qkv.Spec(score=qkv.bias(torch.zeros(3, 3).masked_fill(~KEPT, -math.inf), "i j")),
}


@pytest.mark.parametrize("which", SPECS)
def test_the_other_rows_gradients_are_untouched(which: str) -> None:
    q, k, v = (x.requires_grad_() for x in tensors(3, 3))
    grad = torch.randn(2, 2, 3, 8)
    rows = [0, 2]
    alone, _ = definition(q[..., rows, :], k, v, kept=KEPT[rows])
    wanted = torch.autograd.grad(alone, (q, k, v), grad[..., rows, :].double())
    for name, result in answers(SPECS[which], q, k, v):
        found = torch.autograd.grad(result.output, (q, k, v), grad)
        assert not found[0][..., 1, :].any(), name
        for ours, theirs in zip(found, wanted, strict=True):
            close(ours, theirs, name)


def test_a_bias_row_of_minus_infinity_has_gradient_zero() -> None:
    q, k, v = tensors(3, 3)
    table = torch.zeros(3, 3).masked_fill(~KEPT, -math.inf).requires_grad_()
    for name, result in answers(qkv.Spec(score=qkv.bias(table, "i j")), q, k, v):
        (found,) = torch.autograd.grad(result.output.square().sum(), table)
        assert bool(found.isfinite().all()) and not found[~KEPT].any() and bool(found[0].any()), name
