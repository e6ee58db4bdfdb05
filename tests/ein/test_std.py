"""The standard library against the mechanisms in Python, on every strategy that can run them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import qkv
from qkv.ein.door import library_files


def std(file: str, name: str) -> Any:
    """A function of the standard library."""
    return qkv.ein.std(file)[name]


def rand(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def _plain() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return rand(2, 4, 7, 8), rand(2, 4, 7, 8), rand(2, 4, 7, 6)


Case = Callable[[], tuple[Any, Any]]


def sdp() -> tuple[Any, Any]:
    t = tuple(x[0] for x in _plain())
    return lambda: std("attention", "scaled_dot_product")(*t), lambda: qkv.mechanisms.scaled_dot_product()(*t)


def flash() -> tuple[Any, Any]:
    t = tuple(x[0] for x in _plain())
    return lambda: std("attention", "flash")(*t), lambda: qkv.mechanisms.flash()(*t)


def causal() -> tuple[Any, Any]:
    t = _plain()
    return lambda: std("attention", "causal")(*t), lambda: qkv.mechanisms.causal()(*t)


def cross() -> tuple[Any, Any]:
    t = (rand(2, 4, 5, 8), rand(2, 4, 7, 8), rand(2, 4, 7, 6))
    return lambda: std("attention", "cross")(*t), lambda: qkv.mechanisms.cross()(*t)


def multi_query() -> tuple[Any, Any]:
    t = (rand(2, 4, 7, 8), rand(2, 7, 8), rand(2, 7, 6))
    return lambda: std("attention", "multi_query")(*t), lambda: qkv.mechanisms.multi_query()(*t)


def grouped_query() -> tuple[Any, Any]:
    t = (rand(2, 4, 7, 8), rand(2, 2, 7, 8), rand(2, 2, 7, 6))
    return lambda: std("attention", "grouped_query")(*t), lambda: qkv.mechanisms.grouped_query()(*t)


def sliding_window() -> tuple[Any, Any]:
    t = _plain()
    return lambda: std("attention", "sliding_window")(*t, 2, 1), lambda: qkv.mechanisms.sliding_window(2, 1)(*t)


def bigbird() -> tuple[Any, Any]:
    t = _plain()
    drawn = qkv.bigbird(window=0, num_global=0, num_random=1, seed=5).picture
    del drawn
    keep = qkv.bigbird(window=0, num_global=0, num_random=1, seed=5)
    weights = qkv.Spec("i d, j d, j e -> i e", keep=keep).run(rand(7, 8), rand(7, 8), rand(7, 8), want="weights")
    random = weights.stats["weights"] > 0
    return lambda: std("attention", "bigbird")(*t, random, 1, 1), lambda: qkv.mechanisms.bigbird(seed=5)(*t)


def multi_head() -> tuple[Any, Any]:
    t = (rand(2, 7, 32), rand(2, 7, 32), rand(2, 7, 24))
    return lambda: std("projected", "multi_head")(*t, h=4), lambda: qkv.mechanisms.multi_head()(*t, sizes={"h": 4})


def multi_head_projected() -> tuple[Any, Any]:
    x, s = rand(2, 7, 16), rand(2, 7, 16)
    wq, wk, wv, wo = rand(32, 16), rand(32, 16), rand(24, 16), rand(16, 24)

    def split(w: torch.Tensor) -> torch.Tensor:
        return w.T.unflatten(1, (4, -1))

    return (
        lambda: std("projected", "multi_head_projected")(
            x, s, split(wq), split(wk), split(wv), wo.T.unflatten(0, (4, -1))
        ),
        lambda: qkv.mechanisms.multi_head_projected(x, s, wq, wk, wv, wo, num_heads=4),
    )


def relative_position_bias() -> tuple[Any, Any]:
    t, table = _plain(), rand(5, 4)
    return lambda: std("positions", "relative_position_bias")(*t, table), lambda: qkv.mechanisms.relative_position_bias(
        table
    )(*t)


def alibi() -> tuple[Any, Any]:
    t, slopes = _plain(), torch.tensor(qkv.alibi_slopes(4), dtype=torch.float64)
    return lambda: std("positions", "alibi")(*t, slopes), lambda: qkv.mechanisms.alibi()(*t)


def rope() -> tuple[Any, Any]:
    t = _plain()
    return lambda: std("positions", "rope")(*t, 10000.0, two=2), lambda: qkv.mechanisms.rope()(*t)


def linear() -> tuple[Any, Any]:
    t = _plain()
    return lambda: std("linear", "linear")(*t), lambda: qkv.mechanisms.linear()(*t)


def linear_causal() -> tuple[Any, Any]:
    t = _plain()
    return lambda: std("linear", "linear_causal")(*t), lambda: qkv.mechanisms.linear(causal=True)(*t)


def linear_recurrent() -> tuple[Any, Any]:
    t = _plain()
    return lambda: std("linear", "linear_recurrent")(*t), lambda: qkv.mechanisms.linear(causal=True)(*t)


def differential() -> tuple[Any, Any]:
    t, lam = _plain(), torch.rand(4, dtype=torch.float64)
    return (
        lambda: std("differential", "differential")(*t, lam, 0.2, half=2),
        lambda: qkv.mechanisms.differential(lam, lambda_init=0.2)(*t),
    )


def differential_clamped() -> tuple[Any, Any]:
    t = _plain()
    return lambda: std("differential", "differential_clamped")(
        *t, 0.5, half=2
    ), lambda: qkv.mechanisms.differential_clamped(0.5)(*t)


def _latents() -> tuple[torch.Tensor, ...]:
    return rand(2, 4, 7, 8), rand(2, 7, 5), rand(4, 8, 5), rand(4, 6, 5)


def _rebuilt(q: torch.Tensor, c: torch.Tensor, uk: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    down = torch.eye(5, dtype=torch.float64)
    k, v = qkv.mechanisms.latent_keys_values(c, down, uk.flatten(0, 1), uv.flatten(0, 1), num_heads=4)
    return qkv.mechanisms.latent()(q, k, v)


def latent() -> tuple[Any, Any]:
    t = _latents()
    return lambda: std("latent", "latent")(*t), lambda: _rebuilt(*t)


def latent_absorbed() -> tuple[Any, Any]:
    t = _latents()
    return lambda: std("latent", "latent_absorbed")(*t), lambda: _rebuilt(*t)


CASES: list[Case] = [
    sdp, flash, causal, cross, multi_query, grouped_query, sliding_window, bigbird, multi_head, multi_head_projected,
    relative_position_bias, alibi, rope, linear, linear_causal, linear_recurrent, differential, differential_clamped, latent, latent_absorbed,  # noqa: E501
]  # fmt: skip


@pytest.mark.parametrize("strategy", [None, *qkv.strategies()])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_definition_equals_its_python_twin(case: Case, strategy: str | None) -> None:
    torch.manual_seed(0)
    mine, theirs = case()
    with qkv.strategy("reference"):
        expected = theirs()
    if strategy is None:
        torch.testing.assert_close(mine(), expected, rtol=1e-9, atol=1e-9)
        return
    with qkv.strategy(strategy):
        try:
            out = mine()
        except qkv.Refused as error:
            assert error.reasons and strategy != "reference"
            return
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)


UNFUSED = {"linear_recurrent"}
"""Definitions of attention that are run as they are written: a recurrence, step by step."""


@pytest.mark.parametrize("name", [case.__name__ for case in CASES])
def test_attention_of_the_library_is_fused(name: str) -> None:
    name = name.replace("sdp", "scaled_dot_product")
    f = next(qkv.ein.std(file)[name] for file in library_files() if name in list(qkv.ein.std(file)))
    told = qkv.ein.explain(f)
    assert told["left"] == []
    assert all(one["plan"].startswith("strategy") for one in told["attention"])
    assert bool(told["attention"]) != (name in UNFUSED)


def test_every_mechanism_has_a_definition() -> None:
    named = {case.__name__.replace("sdp", "scaled_dot_product") for case in CASES}
    assert {name.replace("-", "_") for name in qkv.mechanisms.names("mechanism")} <= named


def test_decoding_token_by_token_is_prefill() -> None:
    q, k, v = rand(2, 7, 8), rand(2, 7, 8), rand(2, 7, 6)
    step = std("cache", "step")
    old_k, old_v = k[:, :0], v[:, :0]
    outs: list[torch.Tensor] = []
    for t in range(7):
        out, old_k, old_v = step(q[:, t : t + 1], old_k, k[:, t : t + 1], old_v, v[:, t : t + 1])
        outs.append(out)
        assert old_k.shape[1] == old_v.shape[1] == t + 1
    expected = qkv.attention(q, k, v, "b i d, b j d, b j e -> b i e", keep=qkv.causal())
    torch.testing.assert_close(torch.cat(outs, 1), expected, rtol=1e-9, atol=1e-9)


def test_an_unknown_file_of_the_library_is_named() -> None:
    with pytest.raises(qkv.EinError, match=r"std has attention"):
        qkv.ein.std("attenton")
