"""What ``sdpa`` may be taken for: exactly this attention, by a fused kernel, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import qkv
from tests.contract.problem import PATTERN


def _drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


Q, K = _drawn(2, 4, 16, 8), _drawn(2, 4, 16, 8)
BIAS = torch.zeros(16, 16)

REFUSED: dict[str, tuple[dict[str, Any], tuple[Tensor, Tensor, Tensor], dict[str, Any], str]] = {
    "a learned bias": ({"score": qkv.bias(BIAS, "i j")}, (Q, K, K), {}, "score term bias"),
    "a bias with a gradient": (
        {"score": qkv.bias(BIAS.clone().requires_grad_(), "i j")},
        (Q, K, K),
        {},
        "a captured tensor needs a gradient",
    ),
    "a soft cap": ({"score": qkv.softcap(3.0)}, (Q, K, K), {}, "score term softcap"),
    "a sink": ({"weights": qkv.softmax(sink=0.0)}, (Q, K, K), {}, "a sink"),
    "off by one": ({"weights": qkv.softmax(off_by_one=True)}, (Q, K, K), {}, "a sink"),
    "sigmoid": ({"weights": qkv.sigmoid()}, (Q, K, K), {}, "sigmoid weights"),
    "a window": ({"keep": qkv.causal() & qkv.window(4)}, (Q, K, K), {}, "would need a mask of all pairs"),
    "padding": ({"keep": qkv.padding(torch.ones(2, 16).bool())}, (Q, K, K), {}, "would need a mask of all pairs"),
    "fewer queries, at the end": ({"keep": qkv.causal()}, (Q[:, :, :3], K, K), {"align": "end"}, "is_causal aligns"),
    "fewer queries, at the start": (
        {"keep": qkv.causal()},
        (Q[:, :, :3], K, K),
        {"align": "start"},
        "is_causal aligns",
    ),
    "more queries": ({"keep": qkv.causal()}, (Q, K[:, :, :3], K[:, :, :3]), {"align": "end"}, "is_causal aligns"),
    "queries placed apart": ({"keep": qkv.causal()}, (Q, K, K), {"positions": {"i": 4}}, "is_causal aligns"),
    "positions in any order": (
        {"keep": qkv.causal()},
        (Q, K, K),
        {"positions": {"i": torch.arange(16).flip(0), "j": torch.arange(16)}},
        "is_causal aligns",
    ),
    "a dropped key that is NaN": (
        {"keep": qkv.causal()},
        (Q, K, K.clone().index_fill_(2, torch.tensor([15]), torch.nan)),
        {},
        "holds NaN or infinity",
    ),
    "a dropped key that is infinite": (
        {"keep": qkv.causal()},
        (Q, K.clone().index_fill_(2, torch.tensor([15]), torch.inf), K),
        {},
        "holds NaN or infinity",
    ),
    "values of another size": ({}, (Q, K, _drawn(2, 4, 16, 6)), {}, "takes it to its math kernel"),
    "lse": ({}, (Q, K, K), {"want": ("lse",)}, "cannot return lse"),
    "dropout": ({}, (Q, K, K), {"dropout": 0.1}, "dropout is not supported"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_refuses(case: str) -> None:
    """Forced it raises, and by itself the planner takes another: the answer is that of ``reference``."""
    parts, tensors, options, reason = REFUSED[case]
    spec = qkv.Spec(**parts)
    with qkv.strategy("sdpa"), pytest.raises(qkv.Refused, match=reason):
        spec.run(*tensors, **options)
    options = {"seed": 3, **options} if "dropout" in options else options
    result = spec.run(*tensors, **options)
    assert result.plan.strategy == "cpu"
    told = result.plan.refused["sdpa"]
    # nobody looks at the values while a strategy is cheaper that does not need them finite
    assert reason in told or ("NaN" in reason and told.endswith(" x the time of cpu"))
    with qkv.strategy("reference"):
        expected = spec.run(*tensors, **options).output
    torch.testing.assert_close(result.output, expected, equal_nan=True)


RUN: dict[str, tuple[str, dict[str, Any], tuple[Tensor, Tensor, Tensor]]] = {
    "all keys": (qkv.spec.DEFAULT_PATTERN, {}, (Q, K, K)),
    "causal": (qkv.spec.DEFAULT_PATTERN, {"keep": qkv.causal()}, (Q, K, K)),
    "all keys, lengths apart": (qkv.spec.DEFAULT_PATTERN, {}, (Q[:, :, :3], K, K)),
    "grouped": (PATTERN, {"keep": qkv.causal()}, (_drawn(2, 12, 16, 8), K, K)),
    "grouped the other way": (PATTERN.replace("(h g)", "(g h)"), {}, (_drawn(2, 12, 16, 8), K, K)),
    "a scale": (qkv.spec.DEFAULT_PATTERN, {"scale": 0.3, "keep": qkv.causal()}, (Q, K, K)),
    "rope": (qkv.spec.DEFAULT_PATTERN, {"position": qkv.rope(), "keep": qkv.causal()}, (Q, K, K)),
    "heads last": ("b i h d, b j h d, b j h e -> b i h e", {"keep": qkv.causal()}, (Q, K, K)),
    "feature first": ("b h d i, b h d j, b h e j -> b h e i", {"keep": qkv.causal()}, (Q, K, K)),
    "no batch, no heads": ("i d, j d, j e -> i e", {"keep": qkv.causal()}, (Q[0, 0], K[0, 0], K[0, 0])),
    "a NaN that every row keeps": (
        qkv.spec.DEFAULT_PATTERN,
        {},
        (Q, K, K.clone().index_fill_(2, torch.tensor([3]), torch.nan)),
    ),
}


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16, torch.float64), ids=str)
@pytest.mark.parametrize("case", RUN)
def test_it_runs_by_a_fused_kernel(case: str, dtype: torch.dtype) -> None:
    """Torch calls its fused kernel, and its math kernel is never entered."""
    pattern, parts, tensors = RUN[case]
    spec = qkv.Spec(pattern, **parts)
    made = [x.to(dtype) for x in tensors]
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile, qkv.strategy("sdpa"):
        result = spec.run(*made)
    kernels = {event.key for event in profile.key_averages() if "attention" in event.key}
    assert result.plan.strategy == "sdpa"
    assert not any("math" in name for name in kernels), kernels
    assert any("flash" in name for name in kernels), kernels
    with qkv.strategy("reference"):
        expected = spec.run(*made).output
    tight = {"rtol": 1e-5, "atol": 1e-5} if dtype in (torch.float32, torch.float64) else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(result.output, expected, equal_nan=True, **tight)


def test_the_caller_may_switch_its_fused_kernel_off() -> None:
    """Where torch is told to use its math kernel, another strategy is taken, with the reason."""
    spec = qkv.Spec(keep=qkv.causal())
    with qkv.strategy("sdpa"):
        assert spec.plan(Q, K, K).strategy == "sdpa"
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        plan = spec.plan(Q, K, K)
        assert plan.strategy == "cpu"
        assert plan.refused["sdpa"] == "torch would take its math kernel for these tensors"
        with qkv.strategy("sdpa"), pytest.raises(qkv.Refused, match="math kernel"):
            spec(Q, K, K)
    with qkv.strategy("sdpa"):
        assert spec.plan(Q, K, K).strategy == "sdpa"


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
def test_gradients_of_groups_in_16_bits_are_left_to_others(dtype: torch.dtype) -> None:
    q, k = _drawn(1, 4, 16, 8).to(dtype).requires_grad_(), _drawn(1, 2, 16, 8).to(dtype)
    spec = qkv.Spec(PATTERN, keep=qkv.causal())
    plan = spec.plan(q, k, k)
    assert plan.strategy == "cpu"
    assert "gradients of grouped heads are rounded" in plan.refused["sdpa"]
    with torch.no_grad(), qkv.strategy("sdpa"):
        assert spec.plan(q, k, k).strategy == "sdpa"
