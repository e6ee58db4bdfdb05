"""Modules with caches: a prefill, one in parts and single tokens give what the whole sequence gives at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import qkv
import qkv.nn

MODEL, LENGTH = 32, 12
X = torch.randn(2, LENGTH, MODEL, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
F64: dict[str, Any] = {"dtype": torch.float64}
LATENT: dict[str, Any] = {"kv_lora_rank": 12, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5}


def _attention(**parts: Any) -> Any:
    return qkv.nn.Attention(MODEL, 4, 2, **{"position": qkv.rope(), "keep": qkv.causal(), **parts}, **F64)


def _differential(**rope: Any) -> Any:
    return qkv.nn.DifferentialAttention(MODEL, 4, 2, position=qkv.rope(**rope), keep=qkv.causal(), **F64)


def _latent(**options: Any) -> Any:
    return qkv.nn.LatentAttention(MODEL, 4, **LATENT, **options, keep=qkv.causal(), **F64)


CASES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "dense": (_attention, lambda _: qkv.cache.Dense()),
    "ring": (lambda: _attention(keep=qkv.causal() & qkv.window(3)), lambda _: qkv.cache.Ring(3)),
    "differential": (_differential, lambda _: qkv.cache.Dense()),
    "differential interleaved": (lambda: _differential(interleaved=True), lambda _: qkv.cache.Dense()),
    "latent": (_latent, lambda module: module.new_cache()),
    "latent with queries' own": (lambda: _latent(q_lora_rank=9), lambda module: module.new_cache()),
    "latents as keys": (_latent, lambda _: qkv.cache.Dense()),
    "linear": (lambda: qkv.nn.LinearAttention(MODEL, 4, 2, decay=0.9, **F64), lambda _: qkv.cache.Recurrent()),
}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_in_parts_as_at_once(name: str) -> None:
    make, cached = CASES[name]
    module = make()
    cache = cached(module)
    parts = [X[:, :5], X[:, 5:8], *X[:, 8:].split(1, dim=1)]
    found = torch.cat([module(part, cache=cache) for part in parts], dim=1)
    torch.testing.assert_close(found, module(X), rtol=1e-9, atol=1e-10)
    assert cache.length == LENGTH


@torch.no_grad()
def test_a_cache_of_latents_is_small() -> None:
    module = _latent()
    cache = module.new_cache()
    module(X, cache=cache)
    assert cache.nbytes <= 2 * 8 * 2 * LENGTH * (12 + 4)  # room for at most as many tokens again


@torch.no_grad()
def test_a_mask_of_one_call_with_a_cache() -> None:
    module, cache = _attention(), qkv.cache.Dense()
    module(X[:, :5], cache=cache)
    found = module(X[:, 5:], cache=cache, keep=qkv.window(4))
    torch.testing.assert_close(found, module(X, keep=qkv.window(4))[:, 5:], rtol=1e-9, atol=1e-10)


def test_a_cache_keeps_no_gradients() -> None:
    with pytest.raises(qkv.SpecError, match=r"a cache keeps numbers alone"):
        _attention()(X, cache=qkv.cache.Dense())
