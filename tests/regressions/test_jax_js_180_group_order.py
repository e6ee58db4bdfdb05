"""ekzhang/jax-js#180, line/lighthouse#77: query heads of a group read the wrong key heads, or the wrong entry's mask,
because heads were tiled where each should have been repeated. With one head, or one entry, both are the same, and tests
pass.

qkv: the pattern says which it is. ``(h g)`` is what checkpoints mean; nothing is repeated, in masks neither.
"""

from __future__ import annotations

import pytest
import torch

import qkv

HEADS_FIRST, GROUPS_FIRST = (f"b {axis} i d, b h j d, b h j e -> b {axis} i e" for axis in ("(h g)", "(g h)"))


@pytest.mark.parametrize("strategy", ("reference", "chunked", "sdpa"))
def test_each_query_head_reads_its_own_key_head(strategy: str) -> None:
    q, k = torch.zeros(1, 6, 2, 4), torch.zeros(1, 2, 3, 4)
    v = torch.tensor([1.0, 2.0])[None, :, None, None].expand(1, 2, 3, 4)
    with qkv.strategy(strategy):
        assert qkv.attention(q, k, v, HEADS_FIRST)[0, :, 0, 0].tolist() == [1, 1, 1, 2, 2, 2]
        assert qkv.attention(q, k, v, GROUPS_FIRST)[0, :, 0, 0].tolist() == [1, 2, 1, 2, 1, 2]


@pytest.mark.parametrize("strategy", ("reference", "chunked"))
def test_each_entry_reads_its_own_mask(strategy: str) -> None:
    q, k = torch.zeros(3, 4, 1, 2), torch.zeros(3, 4, 3, 2)
    v = torch.eye(3).expand(3, 4, 3, 3)
    mask = torch.eye(3).bool()
    with qkv.strategy(strategy):
        output = qkv.attention(q, k, v, keep=qkv.padding(mask))
    assert output.equal(torch.eye(3)[:, None, None].expand(3, 4, 1, 3))
