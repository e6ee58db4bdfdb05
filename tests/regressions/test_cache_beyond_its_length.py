"""A preallocated cache is longer than what it holds: attending to the rest, or multiplying its garbage by a weight of
0, changes answers or makes them NaN.

In qkv what lies beyond the query's position moves no bit, and a model's static cache may hold NaN there.
"""

from __future__ import annotations

import pytest
import torch
from transformers import StaticCache

import qkv
from tests.regressions.models import llama
from tests.regressions.plain import answers, close, definition, tensors


@pytest.mark.parametrize("garbage", [0.0, 1e4, torch.nan, torch.inf], ids=str)
def test_rows_not_written_yet(garbage: float) -> None:
    q, k, v = tensors(2, 16)
    k[:, :, 9:], v[:, :, 9:] = garbage, garbage
    kept = torch.ones(2, 9, dtype=torch.bool).tril(7)
    wanted, _ = definition(q, k[:, :, :9], v[:, :, :9], kept=kept)
    for name, result in answers(qkv.Spec(keep=qkv.causal()), q, k, v, positions={"i": 7}):
        close(result.output, wanted, name)


@torch.no_grad()
@pytest.mark.parametrize("garbage", [0.0, torch.nan], ids=str)
def test_a_models_static_cache(garbage: float) -> None:
    model, ids = llama("qkv"), torch.tensor([[5, 9, 12, 7, 30, 8, 41]])
    wanted = model(ids, use_cache=False).logits
    cache = StaticCache(config=model.config, max_cache_len=16)
    found = [model(ids[:, :5], past_key_values=cache, use_cache=True).logits]
    for layer in cache.layers:
        layer.keys[:, :, 5:], layer.values[:, :, 5:] = garbage, garbage
    for n in (5, 6):
        place = torch.tensor([[n]])
        found.append(model(ids[:, n : n + 1], position_ids=place, past_key_values=cache, use_cache=True).logits)
    torch.testing.assert_close(torch.cat(found, 1), wanted, rtol=1e-4, atol=1e-4)
