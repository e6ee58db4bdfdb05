"""Visible pairs: closed forms beside counting every pair."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import qkv
from qkv.errors import LimitError, SpecError
from qkv.size import (
    bigbird_pairs,
    causal_pairs,
    chunk_pairs,
    full_pairs,
    prefix_pairs,
    visible_pairs,
    window_pairs,
)
from tests.conftest import SEED


def brute(queries: int, keys: int, kept: object) -> int:
    first = keys - queries
    return sum(bool(kept(i, j)) for i in range(first, keys) for j in range(keys))  # type: ignore[operator]


def test_windows_equal_the_formula_and_every_pair_counted() -> None:
    """W(W+1)/2 + (n-W)W for n >= W: 200 random (n, W)."""
    draw = random.Random(SEED)
    for _ in range(200):
        n = draw.randint(1, 300)
        w = draw.randint(1, n)
        i, j = torch.arange(n)[:, None], torch.arange(n)[None]
        counted = int(((j <= i) & (i - j < w)).sum())
        assert window_pairs(n, window=w) == w * (w + 1) // 2 + (n - w) * w == counted, (n, w)


sizes = st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(sizes, st.integers(1, 50))
def test_with_an_offset_too(size: tuple[int, int], span: int) -> None:
    queries, keys = size
    assert full_pairs(queries, keys) == brute(queries, keys, lambda i, j: True)
    assert causal_pairs(queries, keys) == brute(queries, keys, lambda i, j: j <= i)
    assert window_pairs(queries, keys, window=span) == brute(queries, keys, lambda i, j: j <= i and i - j < span)
    assert chunk_pairs(queries, keys, chunk=span) == brute(
        queries, keys, lambda i, j: j <= i and i // span == j // span
    )


@given(st.integers(0, 60), st.integers(0, 70))
def test_prefix(n: int, prefix: int) -> None:
    assert prefix_pairs(n, prefix=prefix) == brute(n, n, lambda i, j: j <= i or (i < prefix and j < prefix))


@given(sizes, st.integers(1, 50))
def test_closed_forms_are_the_counts_of_the_masks(size: tuple[int, int], span: int) -> None:
    queries, keys = size
    assert visible_pairs(qkv.causal(), queries, keys) == causal_pairs(queries, keys)
    assert visible_pairs(qkv.causal() & qkv.window(span), queries, keys) == window_pairs(queries, keys, window=span)
    assert visible_pairs(None, queries, keys) == queries * keys


@pytest.mark.parametrize("n", [1, 7, 16, 61, 64, 128])
@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_bigbird_by_blocks_is_bigbird_by_pairs(n: int, block_size: int) -> None:
    for window, num_global in ((1, 1), (0, 0)):
        keep = qkv.bigbird(window=window, num_global=num_global, num_random=2, block_size=block_size, seed=SEED)
        found = bigbird_pairs(n, window=window, num_global=num_global, num_random=2, block_size=block_size, seed=SEED)
        assert found == keep.count(n)


def test_bigbird_of_a_million_tokens() -> None:
    """Blocks of 64 without random ones, by hand: 2 global rows and columns, 3 neighbours, the last has 2."""
    blocks = 2**20 // 64
    inner = 2 * blocks + (blocks - 2) * (2 + 3) - 2  # the first such block meets a global one, the last has no next
    assert bigbird_pairs(2**20, window=1, num_global=2, num_random=0, block_size=64) == inner * 64**2


def test_more_blocks_than_are_counted() -> None:
    with pytest.raises(LimitError) as caught:
        bigbird_pairs(2**25)
    assert str(caught.value) == (
        "count of 33554432 positions in blocks of 1: more than 16777216 blocks.\n"
        "  Counting takes time in proportion to them; count a shorter part, or take larger blocks."
    )
    assert bigbird_pairs(2**25, num_global=2**24, block_size=2) == 2**50


def test_any_mask_is_counted_by_its_density() -> None:
    keep = qkv.keep(lambda i, j: (j <= i) & ((i - j) % 3 == 0))
    assert visible_pairs(keep, 100) == round(keep.density(100) * 100 * 100)
    assert visible_pairs(keep, 1, 100) == 34


def test_more_queries_than_keys() -> None:
    with pytest.raises(SpecError) as caught:
        causal_pairs(3, 2)
    assert str(caught.value) == (
        "3 queries and 2 keys: the queries are the last positions of the keys.\n"
        "  Give at least as many keys as queries."
    )
