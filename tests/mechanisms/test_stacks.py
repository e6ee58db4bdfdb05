"""Attention of known models: against formulas in plain torch, and facts against transformers' configurations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import qkv
from qkv import mechanisms
from tests.mechanisms.plain import (
    alibi_slopes,
    distances,
    head_norm,
    ladder,
    mask,
    one_head,
    per_head,
    soft,
    t5_bucket,
    turned,
)

N = 9


@pytest.fixture(params=["reference", "chunked"], autouse=True)
def _strategy(request: pytest.FixtureRequest) -> Iterator[None]:
    with qkv.strategy(request.param):
        yield


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def heads(num_heads: int, num_key_heads: int, d: int, e: int | None = None) -> tuple[Tensor, ...]:
    return draw(2, num_heads, N, d), draw(2, num_key_heads, N, d), draw(2, num_key_heads, N, e or d)


def half_split(x: Tensor, theta: float, divide: float = 1.0) -> Tensor:
    return turned(x, [f / divide for f in ladder(theta, x.shape[-1])], interleaved=False)


CAUSAL = mask(N, N, lambda i, j: j <= i)
THREE = mask(N, N, lambda i, j: i - 3 < j <= i)


def check(name: str, inputs: tuple[Tensor, ...], expected: Tensor, layer: str | None = None, **parameters: Any) -> None:
    """The named layer gives what was expected, and the expectation is no accident of equal rows."""
    found = mechanisms.get(name).spec(layer, **parameters)(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def rotary(
    inputs: tuple[Tensor, ...], theta: float, kept: Tensor, divide: float = 1.0, scale: float | None = None, **more: Any
) -> Tensor:
    """Grouped heads with half-split rotary positions."""

    def head(h: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        turned_q, turned_k = half_split(q, theta, divide), half_split(k, theta, divide)
        return one_head(turned_q, turned_k, v, kept=kept, scale=scale, **more)

    return per_head(*inputs, head)


def test_llama_3() -> None:
    inputs = heads(4, 2, 8)
    check("llama-3", inputs, rotary(inputs, 500_000.0, CAUSAL))
    ids = torch.tensor([[0] * 4 + [1] * 5, [0] * N])
    found = mechanisms.get("llama-3").spec(documents=ids)(*inputs)
    packed = CAUSAL & (ids[0][:, None] == ids[0][None, :])
    torch.testing.assert_close(found[:1], rotary(tuple(x[:1] for x in inputs), 500_000.0, packed))


def test_llama_3_1_scaling() -> None:
    inputs = heads(4, 2, 8)

    def scaled(frequency: float) -> float:
        wavelength = 2 * math.pi / frequency
        if wavelength < 8192 / 4:
            return frequency
        if wavelength > 8192:
            return frequency / 8
        smooth = (8192 / wavelength - 1) / 3
        return (1 - smooth) * frequency / 8 + smooth * frequency

    def turn(x: Tensor) -> Tensor:
        return turned(x, [scaled(f) for f in ladder(500_000.0, 8)], interleaved=False)

    expected = per_head(*inputs, lambda h, q, k, v: one_head(turn(q), turn(k), v, kept=CAUSAL))
    check("llama-3", inputs, expected, scaling=qkv.scaling.llama3(8, 1, 4, 8192))


def test_mistral() -> None:
    inputs = heads(4, 2, 8)
    check("mistral-7b", inputs, rotary(inputs, 10_000.0, THREE), window=3)


def test_qwen_2() -> None:
    inputs = heads(6, 2, 8)
    check("qwen-2", inputs, rotary(inputs, 1_000_000.0, CAUSAL))


@pytest.mark.parametrize("scale", [None, 0.4])
def test_gemma_2(scale: float | None) -> None:
    inputs = tuple(20 * x for x in heads(4, 2, 8))

    def cap(scores: Tensor) -> Tensor:
        return 50 * torch.tanh(scores / 50)

    local = rotary(inputs, 10_000.0, THREE, scale=scale, change=cap)
    check("gemma-2", inputs, local, "local", window=3, scale=scale)
    check("gemma-2", inputs, rotary(inputs, 10_000.0, CAUSAL, scale=scale, change=cap), "global", scale=scale)


def test_gemma_3() -> None:
    inputs = heads(4, 2, 8)
    check("gemma-3", inputs, rotary(inputs, 10_000.0, THREE), "local", window=3)
    check("gemma-3", inputs, rotary(inputs, 1_000_000.0, CAUSAL, divide=8), "global")
    check("gemma-3", inputs, rotary(inputs, 1_000_000.0, CAUSAL), "global", scaling=None)


def yarn(theta: float, size: int, factor: float, original: int, *, whole: bool) -> list[float]:
    """YaRN's frequencies: pairs that turn over 32 times within the original length as they are, under once divided."""

    def pair(turns: float) -> float:
        return size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair(32), pair(1)
    if whole:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    ramp = [min(max((n - low) / (high - low), 0), 1) for n in range(size // 2)]
    return [f / factor * r + f * (1 - r) for f, r in zip(ladder(theta, size), ramp, strict=True)]


@pytest.mark.parametrize(("layer", "kept", "parameters"), [("sliding", THREE, {"window": 3}), ("full", CAUSAL, {})])
def test_gpt_oss(layer: str, kept: Tensor, parameters: dict[str, int]) -> None:
    inputs, sinks = heads(4, 2, 16), draw(4)
    frequencies = yarn(150_000.0, 16, 32.0, 4096, whole=False)
    sharper = 0.1 * math.log(32) + 1

    def head(h: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = (turned(x, frequencies, interleaved=False, factor=sharper) for x in (q, k))
        return one_head(q, k, v, kept=kept, sink=float(sinks[h]))

    check("gpt-oss", inputs, per_head(*inputs, head), layer, sinks=sinks, **parameters)


def test_deepseek_v2() -> None:
    inputs = heads(2, 2, 192, 4)
    frequencies = yarn(10_000.0, 64, 40.0, 4096, whole=True)
    scale = (0.0707 * math.log(40) + 1) ** 2 / math.sqrt(192)

    def head(h: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = (turned(x, frequencies, interleaved=True) for x in (q, k))
        return one_head(q, k, v, kept=CAUSAL, scale=scale)

    check("deepseek-v2", inputs, per_head(*inputs, head))


def test_falcon() -> None:
    inputs = heads(6, 1, 8)
    expected = rotary(inputs, 10_000.0, CAUSAL)
    q, k, v = inputs
    check("falcon-7b", (q, k[:, 0], v[:, 0]), expected)
    check("falcon-40b", inputs, expected)
    inputs = heads(6, 2, 8)
    check("falcon-40b", inputs, rotary(inputs, 10_000.0, CAUSAL))


@pytest.mark.parametrize("num_heads", [4, 7])
def test_bloom(num_heads: int) -> None:
    inputs, slopes, back = heads(num_heads, num_heads, 4), alibi_slopes(num_heads), -distances(N, N)
    expected = per_head(*inputs, lambda h, *x: one_head(*x, kept=CAUSAL, change=lambda s: s - slopes[h] * back))
    check("bloom", inputs, expected)


def test_blooms_slopes_are_for_112_heads() -> None:
    assert qkv.alibi_slopes(112) == pytest.approx(alibi_slopes(112))


def test_t5() -> None:
    inputs, table = heads(3, 3, 4), draw(32, 3)

    def biased(kept: Tensor | None, bidirectional: bool) -> Tensor:
        rows = torch.tensor([[t5_bucket(int(r), bidirectional=bidirectional) for r in row] for row in distances(N, N)])
        return per_head(*inputs, lambda h, *x: one_head(*x, kept=kept, scale=1.0, change=lambda s: s + table[rows, h]))

    check("t5", inputs, biased(None, True), "encoder", table=table)
    check("t5", inputs, biased(CAUSAL, False), "decoder", table=table)
    there = torch.ones(2, N, dtype=torch.bool)
    there[:, 6:] = False
    kept = there[:1].expand(N, N)
    check("t5", inputs, biased(kept, True), "encoder", table=table, padding=there)
    q = inputs[0][:, :, :5]
    plain = per_head(q, *inputs[1:], lambda h, *x: one_head(*x, scale=1.0, kept=kept[:5]))
    check("t5", (q, *inputs[1:]), plain, "cross", padding=there)


def test_bert() -> None:
    inputs = heads(3, 3, 4)
    check("bert", inputs, per_head(*inputs, lambda h, *x: one_head(*x)))
    there = torch.ones(2, N, dtype=torch.bool)
    there[:, :2] = False
    expected = per_head(*inputs, lambda h, *x: one_head(*x, kept=there[:1].expand(N, N)))
    check("bert", inputs, expected, padding=there)


@pytest.mark.parametrize(("layer", "lambda_init"), [(1, 0.2), (4, 0.8 - 0.6 * math.exp(-0.9))])
def test_diff_transformer(layer: int, lambda_init: float) -> None:
    inputs, lam = heads(2, 2, 8, 6), torch.tensor([0.3, 0.7], dtype=torch.float64)

    def head(h: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        first, second = (
            soft(half_split(q[:, part], 10_000.0) @ half_split(k[:, part], 10_000.0).T / 2, CAUSAL)
            for part in (slice(0, 4), slice(4, 8))
        )
        return (1 - lambda_init) * head_norm((first - lam[h] * second) @ v)

    found = mechanisms.get("diff-transformer").spec(lam=lam, layer=layer)(*inputs)
    torch.testing.assert_close(found, per_head(*inputs, head), rtol=1e-10, atol=1e-12)


def test_layers_of_the_differential_transformer_begin_at_1() -> None:
    with pytest.raises(qkv.SpecError, match="Layers are counted from 1"):
        mechanisms.get("diff-transformer").spec(lam=0.5, layer=0)


def test_the_order_of_layers() -> None:
    orders = {name: mechanisms.get(name).order for name in mechanisms.names("stack") if mechanisms.get(name).order}
    assert orders == {
        "gemma-2": ("local", "global"),
        "gemma-3": ("local", "local", "local", "local", "local", "global"),
        "gpt-oss": ("sliding", "full"),
    }
    assert mechanisms.get("gpt-oss").layer_at(3).name == "full"
    assert mechanisms.get("llama-3").layer_at(31).name == ""


@pytest.mark.parametrize(
    ("name", "layer", "said"),
    [
        ("mistral-7b", None, "window(4096)"),
        ("gemma-2", "local", "window(4096)"),
        ("gemma-2", "local", "softcap(50)"),
        ("gemma-2", "global", "softcap(50)"),
        ("gemma-3", "local", "window(1024)"),
        ("gpt-oss", "sliding", "window(128)"),
        ("t5", "encoder", "scale=1"),
    ],
)
def test_what_models_are_known_for(name: str, layer: str | None, said: str) -> None:
    assert said in repr(mechanisms.get(name).example(layer).spec)


def expected_facts() -> dict[str, tuple[int, int, int, float]]:
    """Query heads, key-value heads, head size and theta, as transformers' default configurations have them."""
    transformers = pytest.importorskip("transformers")

    def facts(config: Any, key_heads: int, size: int, theta: float) -> tuple[int, int, int, float]:
        return config.num_attention_heads, key_heads, size, theta

    mistral, oss = transformers.MistralConfig(), transformers.GptOssConfig()
    falcon, bert = transformers.FalconConfig(), transformers.BertConfig()
    assert falcon.multi_query
    assert (mistral.sliding_window, oss.sliding_window) == (4096, 128)
    return {
        "mistral-7b": facts(mistral, mistral.num_key_value_heads, mistral.head_dim, 10_000.0),
        "gpt-oss": facts(oss, oss.num_key_value_heads, oss.head_dim, oss.default_theta),
        "falcon-7b": facts(falcon, 1, falcon.head_dim, 10_000.0),
        "bert": facts(bert, bert.num_attention_heads, bert.hidden_size // bert.num_attention_heads, 0.0),
    }


def test_facts_are_those_of_transformers_configurations() -> None:
    for name, (num_heads, num_key_heads, size, theta) in expected_facts().items():
        layer = mechanisms.get(name).layer()
        sizes, shared = layer.sizes, "b h j d" in layer.example().spec.pattern
        assert sizes["h"] * sizes.get("g", 1) == num_heads, name
        assert (sizes["h"] if shared else 1) == num_key_heads, name
        assert sizes["d"] == sizes["e"] == size, name
        position = layer.example().spec.position
        assert (position.theta if position else 0.0) == theta, name
