"""A cache of qkv's inside transformers: what models generate with it is what they generate with their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

import qkv
import qkv.transformers
from qkv.transformers.check import limit_of
from qkv.transformers.layers import IN_PLACE
from tests.transformers import families, harness

LIMIT = limit_of(torch.float32)
NAMES = ("llama", "mistral", "gemma2", "gemma3", "gpt_oss", "deepseek_v2", "deepseek_v3")
FAMILIES = [f for f in families.CAUSAL if f.name in NAMES]
BY_NAME = {f.name: f for f in FAMILIES}
LLAMA = BY_NAME["llama"]

Made = Callable[[Any], Any]


def test_all_the_families_are_there() -> None:
    assert {f.name for f in FAMILIES} == set(NAMES)


@torch.no_grad()
def stepped(model: Any, cache: Any, ids: Tensor, there: Tensor, parts: tuple[int, ...]) -> Tensor:
    """The logits of all positions, read in parts of these sizes."""
    found, at = [], 0
    for size in parts:
        mask = there[:, : at + size]
        positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, at : at + size]
        made = model(ids[:, at : at + size], attention_mask=mask, position_ids=positions, past_key_values=cache)
        found.append(made.logits)
        at += size
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("side", ["left", "none"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_parts_of_a_text_are_read_as_the_whole(family: families.Family, side: str) -> None:
    """Prefill, then a part of several tokens, then one by one, beyond every window."""
    ids, there = harness.tokens(24), harness.padding(side, 24)
    given = {"input_ids": ids, "attention_mask": there}
    parts = (7, 3, *[1] * 14)
    eager = family.build()
    model = qkv.transformers.use(family.build())
    cache = qkv.transformers.Cache(model)
    own = stepped(eager, DynamicCache(config=eager.config), ids, there, parts)
    ours = stepped(model, cache, ids, there, parts)
    assert harness.difference(family, given, ours, own) <= LIMIT
    assert cache.get_seq_length() == 24
    lines = cache.explain().splitlines()
    assert all(line.endswith(IN_PLACE) for line in lines), lines


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
@pytest.mark.parametrize("name", ["auto", "dense"])
def test_generate_is_the_same(family: families.Family, name: Any) -> None:
    given = harness.inputs(family, "left")
    own = harness.greedy(family.build(), given, 16)
    model = qkv.transformers.use(family.build(), cache=name)
    assert torch.equal(harness.greedy(model, given, 16), own)
