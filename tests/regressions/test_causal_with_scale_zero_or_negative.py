"""A kernel that masks first and scales afterwards turns the -inf of a dropped key into NaN at scale 0 and into +inf at
a negative one: torch 2.13's ``is_causal`` on a CPU, and a review of NVIDIA/cudnn-frontend#804.

qkv scales, then masks; the strategy that hands causal attention to torch refuses such a scale.
"""

from __future__ import annotations

import pytest
import torch

import qkv
from tests.regressions.plain import answers, close, definition, tensors

SCALES = [0.0, -0.0, -0.3, -1e-45, 1e-45]


@pytest.mark.parametrize("scale", SCALES)
def test_every_strategy_that_runs_it(scale: float) -> None:
    q, k, v = (x.requires_grad_() for x in tensors())
    wanted, _ = definition(q, k, v, kept=torch.ones(6, 6, dtype=torch.bool).tril(), scale=scale)
    gradients = torch.autograd.grad(wanted.square().sum(), (q, k, v))
    for name, result in answers(qkv.Spec(keep=qkv.causal(), scale=scale), q, k, v):
        close(result.output, wanted, name)
        for ours, theirs in zip(torch.autograd.grad(result.output.square().sum(), (q, k, v)), gradients, strict=True):
            close(ours, theirs, name)


@pytest.mark.parametrize("scale", SCALES)
def test_the_planners_choice(scale: float) -> None:
    q, k, v = tensors(64, 64)
    wanted, _ = definition(q, k, v, kept=torch.ones(64, 64, dtype=torch.bool).tril(), scale=scale)
    close(qkv.attention(q, k, v, keep=qkv.causal(), scale=scale), wanted, "the plan")


def test_torch_is_told_why_not() -> None:
    with pytest.raises(qkv.Refused, match="scale after masking"), qkv.strategy("sdpa"):
        qkv.attention(*tensors(), keep=qkv.causal(), scale=0.0)
