"""Weights that are not a softmax: against their formulas, and against float32 computations within the bound."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qkv.errors import SpecError
from qkv.testing import Differential, Linear, Sigmoid, Sizes, make_keep, oracle, randn, worst_ratio

SIZES = Sizes(query_length=9, key_length=9)
CAUSAL = make_keep("causal", 2, 9, 9)


def repeated(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 1)


def test_sigmoid() -> None:
    case = randn(SIZES, seed=1)
    found = oracle(case.q, case.k, case.v, keep=CAUSAL, weights=Sigmoid(bias=-2.0))
    weights = torch.sigmoid(case.q @ repeated(case.k).mT / 4 - 2) * CAUSAL
    assert worst_ratio(weights @ repeated(case.v), found) < 0.5
    assert worst_ratio((weights / weights.sum(-1, keepdim=True)) @ repeated(case.v), found) > 10
    assert found.lse is None


def branches(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    first, second = randn(SIZES, seed=seed), randn(SIZES, seed=seed + 1)
    return torch.stack([first.q, second.q]), torch.stack([first.k, second.k]), first.v


@pytest.mark.parametrize("lam", [0.4, torch.tensor([0.1, 0.3, 0.5, 0.9])])
def test_differential(lam: float | Tensor) -> None:
    q, k, v = branches(1)
    found = oracle(q, k, v, keep=CAUSAL, weights=Differential(lam, lambda_init=0.6))
    one, two = ((q[n] @ repeated(k[n]).mT / 4).masked_fill(~CAUSAL, -torch.inf).softmax(-1) for n in (0, 1))
    factor = lam[:, None, None] if isinstance(lam, Tensor) else lam
    mixed = (one - factor * two) @ repeated(v)
    root = (mixed.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert worst_ratio(0.4 * mixed / root, found) < 0.5
    assert worst_ratio(0.41 * mixed / root, found) > 10
    assert found.lse is not None
    assert found.lse.shape == found.max_logit.shape == (2, 2, 4, 9)
    assert found.delta.shape == (2, 4, 9)


def test_differential_clamped_rows_sum_to_one() -> None:
    q, k, v = branches(3)
    found = oracle(q, k, v, weights=Differential(0.5, normalize=False, renormalize="clamp"))
    assert float(found.weights.min()) == 0.0
    torch.testing.assert_close(found.weights.sum(-1), torch.ones(2, 4, 9, dtype=torch.float64))
    plain = oracle(q, k, v, weights=Differential(0.5, normalize=False))
    assert float(plain.weights.min()) < 0


@pytest.mark.parametrize("decay", [None, 0.9, torch.tensor([0.5, 0.7, 0.9, 1.0])])
def test_linear_is_its_recurrence(decay: float | Tensor | None) -> None:
    case = randn(SIZES, seed=5)
    found = oracle(case.q, case.k, case.v, keep=CAUSAL, weights=Linear(decay=decay))
    q, k, v = (torch.nn.functional.elu(x) + 1 for x in (case.q, repeated(case.k), case.k)), None, repeated(case.v)
    query, key, _ = q
    factor = 1.0 if decay is None else decay if isinstance(decay, float) else decay[:, None, None]
    state, total, rows = torch.zeros(2, 4, 16, 16), torch.zeros(2, 4, 16, 1), []
    for i in range(9):
        state = factor * state + key[:, :, i, :, None] * v[:, :, i, None, :]
        total = factor * total + key[:, :, i, :, None]
        rows.append((query[:, :, i, None] @ state) / (query[:, :, i, None] @ total))
    output = torch.cat(rows, 2)
    assert worst_ratio(output, found) < 0.5
    assert worst_ratio(output * 1.001, found) > 2
    assert k is None
    assert found.lse is None


def test_linear_feature_maps_and_positions() -> None:
    case = randn(SIZES, seed=6)
    named = oracle(case.q, case.k, case.v, weights=Linear("relu"))
    given = oracle(case.q, case.k, case.v, weights=Linear(torch.relu))
    assert torch.equal(named.output, given.output)
    raw = oracle(case.q, case.k, case.v, weights=Linear("identity", normalize=False))
    torch.testing.assert_close(raw.weights, case.q.double() @ repeated(case.k).double().mT)
    here = oracle(case.q, case.k, case.v, weights=Linear(decay=0.9, normalize=False))
    later = oracle(case.q, case.k, case.v, weights=Linear(decay=0.9, normalize=False, first_query_position=2))
    torch.testing.assert_close(later.output, here.output * 0.81)


def test_messages() -> None:
    case = randn(SIZES)
    with pytest.raises(SpecError, match=r'there is no feature map "elu"\.\n    maps: elu1, relu, identity'):
        oracle(case.q, case.k, case.v, weights=Linear("elu"))
    with pytest.raises(SpecError, match=r"differential weights need q and k with a leading axis of 2"):
        oracle(case.q, case.k, case.v, weights=Differential(0.5))
