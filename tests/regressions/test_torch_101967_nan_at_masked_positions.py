"""pytorch/pytorch#101967: a NaN in a key or a value that is masked out reaches the output, while 1e10 in its place does
not, because a weight of 0 is multiplied with it.

qkv: what is not kept moves no bit, in output or gradients.
"""

from __future__ import annotations

import pytest
import torch

import qkv


@pytest.mark.parametrize("strategy", ("reference", "chunked", None))
@pytest.mark.parametrize("value", (1e10, torch.nan, torch.inf, -torch.inf), ids=str)
@pytest.mark.parametrize("where", ("k", "v"))
def test_the_masked_position_moves_nothing(where: str, value: float, strategy: str | None) -> None:
    mask = torch.tensor([[True, False], [True, False]])
    q, k, v = (torch.arange(8, dtype=torch.float32).reshape(1, 2, 4) for _ in range(3))
    spec = qkv.Spec("b i d, b j d, b j e -> b i e", keep=qkv.padding(mask, "i j"))
    changed = {"k": k.clone(), "v": v.clone()}
    changed[where][0, 1, 0] = value
    results = []
    for keys, values in ((k, v), (changed["k"], changed["v"])):
        inputs = [x.clone().requires_grad_() for x in (q, keys, values)]
        with qkv.strategy(strategy or spec.plan(*inputs).strategy):
            output = spec(*inputs)
        results.append([output, *torch.autograd.grad(output.sum(), inputs)])
    assert all(before.equal(after) for before, after in zip(*results, strict=True))


def test_the_planner_leaves_sdpa_when_it_would_let_a_nan_through() -> None:
    q = k = torch.randn(1, 1, 4, 8)
    v = torch.randn(1, 1, 4, 8)
    spec = qkv.Spec(keep=qkv.causal())
    assert spec.run(q, k, v).plan.strategy in ("cpu", "sdpa")
    v[0, 0, 3] = torch.nan
    result = spec.run(q, k, v)
    assert result.plan.strategy == "cpu"
    assert result.output[0, 0, :3].isfinite().all()
    with qkv.strategy("sdpa"), pytest.raises(qkv.Refused, match="k or v holds NaN or infinity"):
        spec.run(q, k, v)
