"""NaN at a key that the mask drops reached every output, through 0 * NaN (pytorch/pytorch#101967).

In qkv a key that is not kept moves no bit, forward or backward: padding may hold anything.
"""

from __future__ import annotations

import pytest
import torch

import qkv
from tests.regressions.plain import answers, tensors

THERE = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], dtype=torch.bool)
SPEC = qkv.Spec(keep=qkv.padding(THERE, "b j"))


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf, 3e38], ids=str)
@pytest.mark.parametrize("place", ["k", "v", "k and v"])
def test_padding_may_hold_anything(poison: float, place: str) -> None:
    q, k, v = tensors()
    grad = torch.randn_like(q)
    found: dict[float, dict[str, tuple[torch.Tensor, ...]]] = {}
    for value in (0.0, poison):
        filled = [x.clone() for x in (k, v)]
        for x, name in zip(filled, "kv", strict=True):
            if name in place:
                x[0, :, 4:] = value
        leaves = [x.clone().requires_grad_() for x in (q, *filled)]
        found[value] = {
            name: (result.output, *torch.autograd.grad(result.output, leaves, grad))
            for name, result in answers(SPEC, *leaves)
        }
    clean, poisoned = found[0.0], found[poison]
    assert set(poisoned) >= {"reference", "chunked"}
    for name, ours in poisoned.items():  # a strategy may refuse to run what is not finite
        for theirs, mine in zip(clean[name], ours, strict=True):
            assert mine.equal(theirs), name
        assert not ours[2][0, :, 4:].any() and not ours[3][0, :, 4:].any(), name
