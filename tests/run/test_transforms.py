"""``torch.func`` over strategy ``cpu``: stacks of calls, gradients, and what it leaves to ``reference``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import qkv

PATTERN = "h i d, h j d, h j e -> h i e"


def _drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Q, K, V = (_drawn(n, 3, 2, 7, 8) for n in range(3))
SPECS = {
    "causal": qkv.Spec(PATTERN, keep=qkv.causal()),
    "bias": qkv.Spec(PATTERN, keep=qkv.causal(), score=qkv.bias(_drawn(4, 2, 7, 7), "h i j")),
    "shaw": qkv.Spec(PATTERN, score=qkv.shaw(_drawn(5, 5, 8), _drawn(6, 5, 8))),
    "sink": qkv.Spec(PATTERN, weights=qkv.softmax(sink=1.0)),
    "sigmoid": qkv.Spec(PATTERN, weights=qkv.sigmoid(-1.0)),
    "differential": qkv.Spec(PATTERN, keep=qkv.causal(), weights=qkv.differential(0.3)),
}


def _loss(spec: qkv.Spec) -> Callable[..., Tensor]:
    return lambda q, k, v: spec(q, k, v).square().sum()


USES: dict[str, Callable[[qkv.Spec], object]] = {
    "vmap": lambda spec: torch.func.vmap(spec)(Q, K, V),
    "vmap with shared keys": lambda spec: torch.func.vmap(spec, in_dims=(0, None, 0))(Q, K[0], V),
    "vmap with shared queries": lambda spec: torch.func.vmap(spec, in_dims=(None, 0, 0))(Q[0], K, V),
    "vmap of an inner axis": lambda spec: torch.func.vmap(spec, in_dims=1, out_dims=1)(
        Q.movedim(0, 1), K.movedim(0, 1), V.movedim(0, 1)
    ),
    "vmap of vmap": lambda spec: torch.func.vmap(torch.func.vmap(spec))(
        *(torch.stack([x, x.flip(0)]) for x in (Q, K, V))
    ),
    "grad": lambda spec: torch.func.grad(_loss(spec), argnums=(0, 1, 2))(Q[0], K[0], V[0]),
    "gradients by example": lambda spec: torch.func.vmap(torch.func.grad(_loss(spec), argnums=(0, 1, 2)))(Q, K, V),
    "grad of vmap": lambda spec: torch.func.grad(
        lambda q, k, v: torch.func.vmap(_loss(spec))(q, k, v).sum(), argnums=(0, 1, 2)
    )(Q, K, V),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", SPECS)
def test_it_gives_what_reference_gives(name: str, use: str) -> None:
    found: list[object] = []
    for strategy in ("reference", "cpu"):
        with qkv.strategy(strategy):
            found.append(USES[use](SPECS[name]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-11)


def test_gradients_of_what_is_learned() -> None:
    table = _drawn(4, 2, 7, 7)

    def loss(table: Tensor) -> Tensor:
        return qkv.Spec(PATTERN, score=qkv.bias(table, "h i j"))(Q[0], K[0], V[0]).square().sum()

    with qkv.strategy("reference"):
        expected = torch.func.grad(loss)(table)
    with qkv.strategy("cpu"):
        torch.testing.assert_close(torch.func.grad(loss)(table), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_what_is_left_to_reference() -> None:
    spec, taken = SPECS["causal"], list[str]()

    def function(q: Tensor) -> Tensor:
        result = spec.run(q, K[0], V[0])
        taken.append(result.plan.strategy)
        return result.output.sum()

    torch.func.grad(function)(Q[0])
    torch.func.vmap(function)(Q)
    assert taken == ["cpu", "cpu"]
    torch.func.jvp(function, (Q[0],), (Q[0],))
    torch.func.grad(lambda q: torch.func.grad(function)(q).sum())(Q[0])
    assert taken[2:] == ["reference", "reference"]
    with qkv.strategy("cpu"), pytest.raises(qkv.Refused, match="a forward derivative"):
        torch.func.jvp(function, (Q[0],), (Q[0],))
    with qkv.strategy("cpu"), pytest.raises(qkv.Refused, match="a derivative of a derivative"):
        torch.func.grad(lambda q: torch.func.grad(function)(q).sum())(Q[0])
