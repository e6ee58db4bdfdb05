"""Dropped weights: the same ones by every strategy for one seed, the right share, and gradients of what was kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import qkv
from tests.contract.blocking import small_blocks


def _drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Q, K, V = _drawn(0, 2, 4, 6, 4), _drawn(1, 2, 2, 9, 4), _drawn(2, 2, 2, 9, 3)
GROUPED = "b (h g) i d, b h j d, b h j e -> b (h g) i e"
SPECS = {
    "plain": qkv.Spec(GROUPED),
    "causal": qkv.Spec(GROUPED, keep=qkv.causal()),
    "sink": qkv.Spec(GROUPED, weights=qkv.softmax(sink=0.5)),
    "sigmoid": qkv.Spec(GROUPED, weights=qkv.sigmoid()),
    "differential": qkv.Spec(GROUPED, weights=qkv.differential(0.5)),
    "linear": qkv.Spec(GROUPED, weights=qkv.linear()),
}


def _run(strategy: str, spec: qkv.Spec, *operands: Tensor, **options: object) -> Tensor:
    with qkv.strategy(strategy):
        return spec(*operands, align="end", **options)


@pytest.mark.parametrize("name", SPECS)
def test_strategies_drop_the_same_pairs(name: str) -> None:
    for seed in (0, 1, -5, 1 << 61):
        first, second = (_run(s, SPECS[name], Q, K, V, dropout=0.4, seed=seed) for s in ("reference", "chunked"))
        torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-12)
        assert not torch.allclose(first, _run("reference", SPECS[name], Q, K, V))


def test_the_same_pairs_in_other_blocks() -> None:
    spec = qkv.Spec()
    q, k, v = _drawn(3, 1, 2, 40, 4), _drawn(4, 1, 2, 50, 4), _drawn(5, 1, 2, 50, 4)
    whole = _run("chunked", spec, q, k, v, dropout=0.3, seed=1)
    with small_blocks(7, 8):
        torch.testing.assert_close(_run("chunked", spec, q, k, v, dropout=0.3, seed=1), whole, rtol=1e-10, atol=1e-12)


def _weights(dropout: float, seed: int) -> Tensor:
    """The weights as used, 1 or 0 before scaling: all scores are equal, and values are unit vectors."""
    q, k, v = torch.zeros(1, 4, 64, 2), torch.zeros(1, 4, 64, 2), torch.eye(64).expand(1, 4, 64, 64)
    return qkv.Spec()(q, k, v, dropout=dropout, seed=seed) * 64


@pytest.mark.parametrize("dropout", (0.1, 0.5, 0.9))
def test_the_share_that_is_dropped_and_what_the_others_are_scaled_by(dropout: float) -> None:
    used = _weights(dropout, 7)
    dropped = used == 0
    count = used.numel()
    assert abs(dropped.sum() - dropout * count) < 5 * (count * dropout * (1 - dropout)) ** 0.5
    torch.testing.assert_close(used[~dropped], torch.full_like(used[~dropped], 1 / (1 - dropout)))


def test_rows_columns_and_heads_are_dropped_apart() -> None:
    dropped = (_weights(0.5, 3) == 0).double()[0]
    for axis in (0, 1, 2):
        first, second = dropped.unbind(axis)[:2]
        assert 0.3 < (first == second).double().mean() < 0.7
    other = (_weights(0.5, 4) == 0).double()[0]
    assert abs((dropped == other).double().mean() - 0.5) < 0.05


def test_the_mean_over_seeds_is_the_output_without() -> None:
    spec = qkv.Spec(GROUPED)
    mean = torch.stack([spec(Q, K, V, dropout=0.2, seed=seed) for seed in range(400)]).mean(0)
    assert (mean - spec(Q, K, V)).abs().max() < 0.15


@pytest.mark.parametrize("strategy", ("reference", "chunked"))
@pytest.mark.parametrize("name", ("causal", "sink", "sigmoid", "differential", "linear"))
def test_gradients_are_those_of_what_was_kept(name: str, strategy: str) -> None:
    operands = [x.clone().requires_grad_() for x in (Q, K, V)]
    direction = _drawn(6, 2, 4, 6, 3)

    def loss(*given: Tensor) -> Tensor:
        return (_run(strategy, SPECS[name], *given, dropout=0.4, seed=2) * direction).sum()

    grads = torch.autograd.grad(loss(*operands), operands)
    step = 1e-5
    for n, grad in enumerate(grads):
        along = _drawn(10 + n, *grad.shape)
        ends = list[Tensor]()
        for sign in (1, -1):
            moved = [x.detach() for x in operands]
            moved[n] = moved[n] + sign * step * along
            ends.append(loss(*moved))
        slope = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close((grad * along).sum(), slope, rtol=1e-6, atol=1e-8)


def test_lse_and_the_row_that_keeps_nothing_are_left_alone() -> None:
    spec = qkv.Spec(GROUPED, keep=qkv.causal())
    plain = spec.run(Q, K, V, want="lse", positions={"i": -2})
    dropped = spec.run(Q, K, V, want="lse", positions={"i": -2}, dropout=0.5, seed=1)
    assert dropped.lse.equal(plain.lse)
    assert dropped.output[:, :, :2].eq(0).all()


def test_strategies_without_dropout_refuse_it() -> None:
    for name, spec in (("sdpa", qkv.Spec()), ("linear", qkv.Spec(weights=qkv.linear()))):
        with qkv.strategy(name), pytest.raises(qkv.Refused, match="dropout is not supported"):
            spec(K, K, V, dropout=0.1)
        assert spec.plan(K, K, V, dropout=0.1).strategy == ("cpu" if name == "sdpa" else "chunked")
