"""Edges: axes of size 0 and 1 in every place, calls inside autocast and inference mode, masks changed under a call."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import product

import pytest
import torch
from torch import Tensor

import qkv
from tests.contract.blocking import small_blocks
from tests.contract.problem import PATTERN
from tests.contract.weighings import WEIGHINGS

STRATEGIES = ("reference", "chunked", "sdpa", "linear", None)
WANT = ("lse", "max_logit", "entropy", "argmax")


def _run(spec: qkv.Spec, strategy: str | None, *tensors: Tensor, **options: object) -> qkv.run.Result:
    with nullcontext() if strategy is None else qkv.strategy(strategy):
        return spec.run(*tensors, **options)  # type: ignore[arg-type]


EMPTY = [sizes for sizes in product((0, 2), (0, 2), (0, 1, 3), (0, 1, 4), (0, 4)) if 0 in sizes]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("keep", (None, qkv.causal(), qkv.window(2) | qkv.first(1)), ids=str)
def test_empty_axes(keep: qkv.Keep | None, strategy: str | None) -> None:
    """Any axis of size 0 gives the output of that shape, zeros where there are no keys, and gradients of zeros."""
    for batch, heads, queries, keys, values in EMPTY:
        q = torch.randn(batch, heads, queries, 8, requires_grad=True)
        k = torch.randn(batch, heads, keys, 8, requires_grad=True)
        v = torch.randn(batch, heads, keys, values, requires_grad=True)
        weights = qkv.linear() if strategy == "linear" else None
        spec = qkv.Spec(keep=keep, weights=weights)
        want = () if strategy in ("sdpa", "linear") else WANT
        try:
            result = _run(spec, strategy, q, k, v, align="end", want=want)
        except qkv.Refused as refused:
            assert strategy in ("sdpa", "linear")
            assert refused.reasons
            continue
        assert result.output.shape == (batch, heads, queries, values)
        assert (result.output == 0).all() or keys > 0
        if want:
            assert result.lse is not None
            assert result.lse.shape == (batch, heads, queries)
            assert all(x.shape == (batch, heads, queries) for x in result.stats.values())
            if keys == 0:
                assert (result.lse == -torch.inf).all()
                assert (result.stats["max_logit"] == -torch.inf).all()
                assert (result.stats["argmax"] == -1).all()
                assert (result.stats["entropy"] == 0).all()
        slopes = torch.autograd.grad(result.output.sum(), [q, k, v], allow_unused=True, materialize_grads=True)
        assert all(slope.shape == x.shape for slope, x in zip(slopes, (q, k, v), strict=True))
        assert all(slope.isfinite().all() for slope in slopes)


@pytest.mark.parametrize("strategy", ("reference", "chunked"))
@pytest.mark.parametrize("weights", WEIGHINGS)
def test_empty_axes_under_every_kind_of_weights(weights: str, strategy: str) -> None:
    from qkv.testing import Sizes
    from tests.contract.problem import Problem
    from tests.contract.refusals import expected

    for batch, queries, keys in ((0, 3, 4), (2, 0, 4), (2, 3, 0)):
        problem = Problem(Sizes(batch, 4, 2, queries, keys, 8, 8), keep="causal", weights=weights)
        assert not expected(problem, strategy)
        output = problem.run(strategy).output
        assert output.shape == (batch, 4, queries, 8)
        assert (output == 0).all()


@pytest.mark.parametrize("strategy", ("reference", "chunked", "sdpa"))
def test_no_groups(strategy: str) -> None:
    """No query heads for a key head that there is: an empty output, by strategies that run it."""
    q, k = torch.randn(1, 0, 3, 4), torch.randn(1, 2, 5, 4)
    if strategy == "sdpa":
        with pytest.raises(qkv.Refused, match="a size is 0"):
            _run(qkv.Spec(PATTERN), strategy, q, k, k)
        return
    assert _run(qkv.Spec(PATTERN), strategy, q, k, k).output.shape == (1, 0, 3, 4)


@pytest.mark.parametrize("strategy", ("reference", "chunked", "sdpa"))
def test_one_of_everything(strategy: str) -> None:
    x = torch.tensor([[[[3.0]]]])
    result = _run(qkv.Spec(keep=qkv.causal()), strategy, x, x, 2 * x)
    assert float(result.output) == 6.0


@pytest.mark.parametrize("strategy", ("reference", "chunked", "sdpa", "linear"))
def test_autocast_does_not_round(strategy: str) -> None:
    """A float32 call inside autocast is the float32 call, forward and backward."""
    q, k, v = (torch.randn(1, 2, 40, 16, requires_grad=True) for _ in range(3))
    spec = qkv.Spec(keep=qkv.causal(), weights=qkv.linear() if strategy == "linear" else None)
    plain = _run(spec, strategy, q, k, v).output
    slopes = torch.autograd.grad(plain.sum(), [q, k, v])
    with torch.autocast("cpu", torch.bfloat16):
        inside = _run(spec, strategy, q, k, v).output
        # the states' backward is torch's own, which torch asks to be run outside of autocast
        inner = slopes if strategy == "linear" else torch.autograd.grad(inside.sum(), [q, k, v])
    assert inside.dtype == torch.float32
    assert inside.equal(plain)
    assert all(a.equal(b) for a, b in zip(inner, slopes, strict=True))


@pytest.mark.parametrize("strategy", ("reference", "chunked", "sdpa", "linear"))
def test_inference_mode(strategy: str) -> None:
    q, k, v = (torch.randn(1, 2, 40, 16) for _ in range(3))
    mask = torch.rand(1, 40) < 0.7
    keep = qkv.causal() if strategy in ("sdpa", "linear") else qkv.padding(mask)
    spec = qkv.Spec(keep=keep, weights=qkv.linear() if strategy == "linear" else None)
    expected = _run(spec, strategy, q, k, v).output
    with torch.inference_mode():
        made = [x.clone() for x in (q, k, v)]
        inner = qkv.Spec(
            keep=qkv.padding(mask.clone()) if strategy in ("reference", "chunked") else keep, weights=spec.weights
        )
        assert _run(inner, strategy, *made).output.equal(expected)


@pytest.mark.parametrize("weights", ("softmax", "clamped"))
def test_a_mask_changed_before_the_backward_is_noticed(weights: str) -> None:
    """The backward makes scores again, so it says when it cannot make the same ones."""
    mask = torch.ones(4, 4, dtype=torch.bool)
    q, k, v = (torch.randn(1, 1, 4, 4, requires_grad=True) for _ in range(3))
    chosen = qkv.differential(0.5, renormalize="clamp") if weights == "clamped" else None
    output = _run(qkv.Spec(keep=qkv.padding(mask, "i j"), weights=chosen), "chunked", q, k, v).output
    mask[0, 0] = False
    with pytest.raises(qkv.SpecError) as caught:
        output.sum().backward()
    assert str(caught.value).split("\n") == [
        "mask<4x4> was changed in place between the forward and the backward, which reads it again.",
        "  Give each call a tensor of its own: mask.clone().",
    ]


@pytest.mark.parametrize("strategy", ("reference", "chunked"))
def test_fractions_in_a_mask_keep_the_same_pairs_in_every_dtype(strategy: str) -> None:
    """0.1 * 3 is not 0.3 in every precision; a mask must not depend on the tensors' dtype or on the strategy."""
    keep = qkv.keep(lambda i, j: 0.1 * i >= 0.3 * (j - i))
    index = torch.arange(40, dtype=torch.float64)
    expected = 0.1 * index[:, None] >= 0.3 * (index - index[:, None])
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        q, k, v = torch.zeros(40, 2, dtype=dtype), torch.zeros(40, 2, dtype=dtype), torch.eye(40, dtype=dtype)
        with small_blocks(8, 8):
            found = _run(qkv.Spec("i d, j d, j e -> i e", keep=keep), strategy, q, k, v).output > 0
        assert found.equal(expected)


@pytest.mark.parametrize("strategy", ("reference", "chunked"))
def test_slopes_that_are_infinite_where_a_branch_is_not_chosen(strategy: str) -> None:
    """``where`` takes the gradient of the branch that it takes the value of: the other's NaN does not come through."""
    q, k, v = (torch.randn(1, 1, 6, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    slope = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    term = qkv.score(lambda score, i, j: qkv.where(i > j, score * qkv.log(slope * (i - j)), score))
    with small_blocks(2, 2):
        output = _run(qkv.Spec(score=term), strategy, q, k, v).output
    found = torch.autograd.grad(output.sum(), [q, k, v, slope])
    index = torch.arange(6)
    distance = (index[:, None] - index).clamp(min=1)
    logits = q @ k.transpose(-1, -2) / 2
    logits = torch.where(index[:, None] > index, logits * (slope * distance).log(), logits)
    expected = torch.autograd.grad((logits.softmax(-1) @ v).sum(), [q, k, v, slope])
    for slope_found, slope_expected in zip(found, expected, strict=True):
        torch.testing.assert_close(slope_found, slope_expected)


@pytest.mark.parametrize("strategy", ("reference", "chunked"))
def test_a_bias_of_minus_infinity_drops_a_key(strategy: str) -> None:
    """As a mask does: weight 0, a row of them alone is 0 with lse -inf, gradients finite."""
    q, k, v = (torch.randn(1, 1, 3, 4, requires_grad=True) for _ in range(3))
    bias = torch.zeros(3, 3)
    bias[0, :], bias[1, 2] = -torch.inf, -torch.inf
    bias.requires_grad_()
    with small_blocks(1, 2):
        result = _run(qkv.Spec(score=qkv.bias(bias, "i j")), strategy, q, k, v, want=("lse",))
        masked = _run(qkv.Spec(keep=qkv.padding(bias > -1, "i j")), strategy, q, k, v)
    torch.testing.assert_close(result.output, masked.output)
    assert result.lse is not None
    assert result.lse[0, 0, 0] == -torch.inf
    slopes = torch.autograd.grad(result.output.sum(), [q, k, v, bias])
    assert all(slope.isfinite().all() for slope in slopes)
    assert (slopes[3][bias == -torch.inf] == 0).all()


@pytest.mark.parametrize("scale", (0.0, -0.7))
@pytest.mark.parametrize("strategy", ("reference", "chunked", "sdpa", None))
def test_scales_of_zero_and_below(strategy: str | None, scale: float) -> None:
    q, k, v = (torch.randn(1, 2, 20, 8) for _ in range(3))
    keep = torch.ones(20, 20).tril().bool()
    expected = (scale * (q @ k.transpose(-1, -2))).masked_fill(~keep, -torch.inf).softmax(-1) @ v
    spec = qkv.Spec(keep=qkv.causal(), scale=scale)
    if strategy == "sdpa":
        with pytest.raises(qkv.Refused, match="its kernels scale after masking"):
            _run(spec, strategy, q, k, v)
        strategy, spec, expected = "sdpa", qkv.Spec(scale=scale), (scale * (q @ k.transpose(-1, -2))).softmax(-1) @ v
    torch.testing.assert_close(_run(spec, strategy, q, k, v).output, expected)
