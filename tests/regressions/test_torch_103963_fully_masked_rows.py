"""pytorch/pytorch#103963, #103749: a boolean mask with a row that keeps nothing gave NaN; ml-explore/mlx#2395: it gave
values that were neither zeros nor NaN.

qkv: exactly 0, with lse -inf.
"""

from __future__ import annotations

import pytest
import torch

import qkv


@pytest.mark.parametrize("strategy", ("reference", "chunked", None))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
def test_it_is_exactly_zero(dtype: torch.dtype, strategy: str | None) -> None:
    q, k, v = (torch.rand(1, 1, 8, 8).to(dtype) for _ in range(3))
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:4, :4] = True
    spec = qkv.Spec(keep=qkv.padding(mask, "i j"))
    with qkv.strategy(strategy or spec.plan(q, k, v).strategy):
        result = spec.run(q, k, v, want=("lse",))
    assert (result.output[:, :, 4:] == 0).all()
    assert result.output[:, :, :4].isfinite().all()
    assert result.lse is not None
    assert (result.lse[:, :, 4:] == -torch.inf).all()
