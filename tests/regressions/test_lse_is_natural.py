"""An lse to base 2 merged by code that expects base e weighs the parts wrongly: flashinfer-ai/flashinfer#2113,
sgl-project/sglang#40903. And an lse whose gradient is silently left out: Dao-AILab/flash-attention#404.

qkv's lse is natural on every strategy, so that parts merge to the whole; its gradient flows.
"""

from __future__ import annotations

import math

import torch

import qkv
from tests.regressions.plain import answers, close, definition, tensors


def test_parts_merge_to_the_whole() -> None:
    q, k, v = tensors(3, 90)
    whole, lse = definition(q, k, v)
    parts = [dict(answers(qkv.Spec(), q, k[:, :, s], v[:, :, s], want=("lse",))) for s in (slice(70), slice(70, None))]
    for name in parts[0]:
        merged = torch.logaddexp(parts[0][name].lse, parts[1][name].lse)  # type: ignore[arg-type]
        close(merged, lse, name)
        total = sum((part[name].lse - merged).exp().unsqueeze(-1) * part[name].output for part in parts)  # type: ignore[operator]
        close(total, whole, name)  # type: ignore[arg-type]


def test_equal_scores_give_the_logarithm_of_their_number() -> None:
    q, k, v = torch.zeros(1, 1, 1, 4), torch.randn(1, 1, 8, 4), torch.randn(1, 1, 8, 4)
    for name, result in answers(qkv.Spec(), q, k, v, want=("lse",)):
        assert result.lse is not None and abs(float(result.lse) - math.log(8)) < 1e-6, name


def test_the_gradient_of_lse_flows() -> None:
    q, k, v = (x.requires_grad_() for x in tensors(3, 9))
    output, lse = definition(q, k, v)
    wanted = torch.autograd.grad(output.sum() + lse.square().sum(), (q, k, v))
    for name, result in answers(qkv.Spec(), q, k, v, want=("lse",)):
        assert result.lse is not None
        found = torch.autograd.grad(result.output.sum() + result.lse.square().sum(), (q, k, v))
        for ours, theirs in zip(found, wanted, strict=True):
            close(ours, theirs, name)
