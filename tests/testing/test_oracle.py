"""The oracle against a loop over single keys, and what it says about edges and bad input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from qkv.errors import DtypeError, ShapeError, SizeMismatch, SpecError
from qkv.testing import Sigmoid, Sizes, make_keep, oracle, randn

SIZES = Sizes(batch=2, query_heads=4, key_heads=2, query_length=3, key_length=5, feature_size=4, value_size=6)


def by_loops(q: Tensor, k: Tensor, v: Tensor, keep: Tensor, bias: Tensor, cap: float, sink: Tensor) -> Tensor:
    """One number at a time, in Python floats: nothing in common with the oracle but the definition."""
    batch, heads, queries, features = q.shape
    output = torch.zeros(batch, heads, queries, v.shape[-1], dtype=torch.float64)
    for b, h, i in torch.cartesian_prod(*map(torch.arange, (batch, heads, queries))).tolist():
        g = h // (heads // k.shape[1])
        terms = {}
        for j in range(k.shape[2]):
            if keep[b, 0, i, j]:
                dot = sum(float(q[b, h, i, d]) * float(k[b, g, j, d]) for d in range(features)) / math.sqrt(features)
                terms[j] = math.exp(cap * math.tanh(dot / cap) + float(bias[h, i, j]))
        total = sum(terms.values()) + math.exp(float(sink[h]))
        for j, term in terms.items():
            output[b, h, i] += term / total * v[b, g, j].double()
    return output


def test_agrees_with_loops() -> None:
    case = randn(SIZES, seed=1)
    keep = make_keep("random", 2, 3, 5, seed=1)
    bias, sink = torch.randn(4, 3, 5), torch.randn(4)
    found = oracle(case.q, case.k, case.v, keep=keep, bias=bias, softcap=2.0, sink=sink)
    expected = by_loops(case.q, case.k, case.v, keep, bias, 2.0, sink)
    torch.testing.assert_close(found.output, expected, rtol=1e-13, atol=1e-14)
    wrong = by_loops(case.q, case.k, case.v, keep, bias, 2.1, sink)
    assert (found.output - wrong).abs().max() > 1e-4


def test_statistics() -> None:
    case = randn(SIZES, seed=2)
    found = oracle(case.q, case.k, case.v)
    logits = case.q.double() @ case.k.double().repeat_interleave(2, 1).mT / 2
    assert found.lse is not None
    torch.testing.assert_close(found.lse, logits.logsumexp(-1))
    torch.testing.assert_close(found.max_logit, logits.amax(-1))
    weights = logits.softmax(-1)
    torch.testing.assert_close(found.entropy, -(weights * weights.log()).sum(-1))
    assert torch.equal(found.argmax, logits.argmax(-1))
    assert torch.equal(found.count, torch.full((2, 4, 3), 5))
    torch.testing.assert_close(found.magnitude, weights @ case.v.double().abs().repeat_interleave(2, 1))
    sizes = case.q.double().abs() @ case.k.double().abs().repeat_interleave(2, 1).mT / 2
    torch.testing.assert_close(found.delta, 4 * 2 * 2.0**-24 * sizes.amax(-1))


def test_off_by_one_is_a_sink_of_zero() -> None:
    case = randn(SIZES, seed=3)
    one = oracle(case.q, case.k, case.v, off_by_one=True)
    sink = oracle(case.q, case.k, case.v, sink=torch.zeros(4))
    assert torch.equal(one.output, sink.output)
    assert not torch.equal(one.output, oracle(case.q, case.k, case.v).output)


def test_score_is_applied_after_the_bias() -> None:
    case, bias = randn(SIZES, seed=4), torch.randn(3, 5)
    found = oracle(case.q, case.k, case.v, bias=bias, score=lambda logits: 2 * logits)
    doubled = oracle(case.q, case.k, case.v, bias=2 * bias, scale=1.0)
    torch.testing.assert_close(found.output, doubled.output)


@pytest.mark.parametrize("sink", [None, torch.zeros(4)])
def test_dead_rows(sink: Tensor | None) -> None:
    case = randn(SIZES, seed=5)
    keep = torch.ones(3, 5, dtype=torch.bool)
    keep[1] = False
    found = oracle(case.q, case.k, case.v, keep=keep, sink=sink)
    assert found.lse is not None
    assert torch.equal(found.output[:, :, 1], torch.zeros(2, 4, 6, dtype=torch.float64))
    assert torch.equal(found.lse.isinf(), torch.tensor([False, True, False]).expand(2, 4, 3))
    assert torch.equal(found.argmax[..., 1], torch.full((2, 4), -1))
    assert torch.equal(found.entropy[..., 1], torch.zeros(2, 4, dtype=torch.float64))
    assert bool((found.max_logit[..., 1] == -torch.inf).all())


def test_no_keys() -> None:
    case = randn(Sizes(key_length=0))
    found = oracle(case.q, case.k, case.v)
    assert torch.equal(found.output, torch.zeros(2, 4, 17, 16, dtype=torch.float64))
    assert found.lse is not None
    assert bool((found.lse == -torch.inf).all())


def test_unkept_keys_leave_no_trace_even_where_others_keep_them() -> None:
    case = randn(SIZES, seed=6)
    keep = torch.ones(3, 5, dtype=torch.bool)
    keep[0, 4] = False
    clean = oracle(case.q, case.k, case.v, keep=keep)
    k, v = case.k.clone(), case.v.clone()
    k[:, :, 4], v[:, :, 4] = torch.nan, torch.inf
    spoiled = oracle(case.q, k, v, keep=keep)
    assert torch.equal(spoiled.output[:, :, 0], clean.output[:, :, 0])
    assert bool(spoiled.output[:, :, 1:].isnan().all())


def test_messages() -> None:
    case = randn(SIZES)
    with pytest.raises(DtypeError, match=r"keep must be bool, True where a key is kept; it is torch\.float32"):
        oracle(case.q, case.k, case.v, keep=torch.ones(3, 5))
    with pytest.raises(SizeMismatch, match=r"keep \(3, 6\) does not broadcast to b h i j = \(2, 4, 3, 5\)"):
        oracle(case.q, case.k, case.v, keep=torch.ones(3, 6, dtype=torch.bool))
    with pytest.raises(ShapeError, match=r"q must be a float tensor with the axes b h i d; it is torch\.int64"):
        oracle(case.q.long(), case.k, case.v)
    with pytest.raises(SizeMismatch, match=r"the feature size differs: \{'q': 4, 'k': 3\}") as caught:
        oracle(case.q, case.k[..., :3], case.v)
    assert caught.value.coordinate == "d"
    with pytest.raises(SizeMismatch, match=r"must agree in b, heads and j"):
        oracle(case.q, case.k, case.v[:, :, :4])
    with pytest.raises(SizeMismatch, match=r"q heads be a multiple of k heads"):
        oracle(case.q[:, :3], case.k, case.v)
    with pytest.raises(SpecError, match=r"a sink or off_by_one adds to the sum of a softmax"):
        oracle(case.q, case.k, case.v, off_by_one=True, weights=Sigmoid())
