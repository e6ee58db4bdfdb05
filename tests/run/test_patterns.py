"""Patterns of every kind, against a brute-force einsum over the same letters: layouts, groups, rests, several keys."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import qkv
from tests.contract.blocking import small_blocks
from tests.run import brute

SIZES = {"b": 2, "c": 3, "h": 2, "g": 3, "i": 5, "y": 3, "x": 4, "j": 7, "m": 2, "n": 3, "d": 4, "f": 2, "e": 6, "u": 2}

# pattern, its key coordinates
PATTERNS: dict[str, tuple[str, str]] = {
    "torch's": ("b h i d, b h j d, b h j e -> b h i e", "j"),
    "heads last": ("b i h d, b j h d, b j h e -> b i h e", "j"),
    "sequence first": ("i b h d, j b h d, j b h e -> i b h e", "j"),
    "feature first": ("b h d i, b h d j, b h e j -> b h e i", "j"),
    "merged heads": ("b i (h d), b j (h d), b j (h e) -> b i (h e)", "j"),
    "output transposed": ("b h i d, b h j d, b h j e -> e i b h", "j"),
    "transformers'": ("b (h g) i d, b h j d, b h j e -> b i (h g) e", "j"),
    "grouped": ("b (h g) i d, b h j d, b h j e -> b (h g) i e", "j"),
    "groups outside": ("b (g h) i d, b h j d, b h j e -> b (g h) i e", "j"),
    "groups reordered in the output": ("b (h g) i d, b h j d, b h j e -> b (g h) i e", "j"),
    "groups as an axis": ("b g h i d, b h j d, b h j e -> b g h i e", "j"),
    "multi-query": ("b h i d, b j d, b j e -> b h i e", "j"),
    "keys shared by the batch": ("b h i d, h j d, h j e -> b h i e", "j"),
    "no batch": ("h i d, h j d, h j e -> h i e", "j"),
    "no heads, no batch": ("i d, j d, j e -> i e", "j"),
    "one query": ("b h d, b h j d, b h j e -> b h e", "j"),
    "one query alone": ("d, j d, j e -> e", "j"),
    "one feature letter": ("b h i d, b h j d, b h j d -> b h i d", "j"),
    "two keys": ("b i d, b y x d, b y x e -> b i e", "y x"),
    "two keys merged": ("b i d, b (y x) d, b y x e -> b i e", "y x"),
    "two keys in another order": ("b i d, b x y d, b y x e -> b i e", "x y"),
    "an image to itself": ("b h y x d, b h m n d, b h m n e -> b h y x e", "m n"),
    "two features": ("b i d f, b j d f, b j e -> b i e", "j"),
    "two features merged": ("b i (d f), b j (f d), b j e -> b i e", "j"),
    "two value features": ("b i d, b j d, b j e u -> b u i e", "j"),
    "a unit axis": ("b 1 i d, b j d, b j 1 e -> b 1 i e", "j"),
    "groups across": ("b (h g) c i d, b h c j d, b h c j e -> c b (h g) i e", "j"),
    "long names": ("b h i d, b h j d, b h j e -> b h i e", "j"),
}
# sizes that shapes leave open
OPEN = {PATTERNS["merged heads"][0]: {"h": 2}, PATTERNS["two features merged"][0]: {"d": 4}}
LONG = {"b": "batch", "h": "head_1", "i": "seq_q", "j": "seq_k", "d": "_feature", "e": "value9"}


def _tensors(pattern: str) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    made: list[Tensor] = []
    sizes = {**SIZES, **{LONG[name]: size for name, size in SIZES.items() if name in LONG}, "1": 1}
    for text in pattern.split("->")[0].split(","):
        shape = [math.prod(sizes[name] for name in axis) for axis in brute.axes(text.strip())]
        made.append(torch.randn(shape, generator=generator, dtype=torch.float64))
    return made[0], made[1], made[2]


def _check(pattern: str, keys: str, strategy: str) -> None:
    q, k, v = _tensors(pattern)
    expected = brute.attention(pattern, q, k, v, keys, SIZES)
    spelled = pattern
    if pattern == PATTERNS["long names"][0]:
        spelled = "".join(LONG.get(letter, letter) for letter in pattern)
    spec = qkv.Spec(spelled)
    with qkv.strategy(strategy), small_blocks(2, 3, scores=32):
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        found = spec(*inputs, sizes=OPEN.get(pattern))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        grad = torch.randn_like(found)
        slopes = torch.autograd.grad((found * grad).sum(), inputs)
    twins = [x.clone().requires_grad_() for x in (q, k, v)]
    wanted = torch.autograd.grad((brute.attention(pattern, *twins, keys, SIZES) * grad).sum(), twins)
    for slope, want in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(slope, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("strategy", ("reference", "chunked"))
@pytest.mark.parametrize("name", PATTERNS)
def test_pattern(name: str, strategy: str) -> None:
    _check(*PATTERNS[name], strategy)


OTHER_LAYOUTS = ("multi-query", "keys shared by the batch", "groups across")
FUSED = (
    *("torch's", "heads last", "sequence first", "feature first", "merged heads", "output transposed", "transformers'"),
    *("grouped", "groups outside", "groups reordered in the output", "no batch", "no heads, no batch", *OTHER_LAYOUTS),
)


@pytest.mark.parametrize("name", FUSED)
def test_pattern_by_sdpa(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same patterns where its layout is one sequence and heads; others are refused by name."""
    monkeypatch.setitem(SIZES, "e", SIZES["d"])
    pattern, keys = PATTERNS[name]
    reasons = ("its layout is", "two query coordinates")
    try:
        _check(pattern, keys, "sdpa")
    except qkv.Refused as refused:
        assert all(reason.startswith(reasons) for reason in refused.reasons), refused.reasons
        assert name in OTHER_LAYOUTS


@pytest.mark.parametrize("name", PATTERNS)
def test_pattern_by_linear(name: str) -> None:
    """Linear weights over the same patterns: the states against the definition."""
    pattern, _ = PATTERNS[name]
    q, k, v = _tensors(pattern)
    spec = qkv.Spec(pattern, weights=qkv.linear())
    with qkv.strategy("reference"):
        expected = spec(q, k, v, sizes=OPEN.get(pattern))
    with qkv.strategy("linear"):
        torch.testing.assert_close(spec(q, k, v, sizes=OPEN.get(pattern)), expected, rtol=1e-11, atol=1e-12)


def test_the_order_inside_parentheses_is_another_computation() -> None:
    """``(h g)`` is key head major, as checkpoints and SDPA mean it; ``(g h)`` is not, and differs."""
    q, k, v = _tensors(PATTERNS["grouped"][0])
    inside, outside = (qkv.attention(q, k, v, PATTERNS[name][0]) for name in ("grouped", "groups outside"))
    repeated = torch.nn.functional.scaled_dot_product_attention(q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1))
    tiled = torch.nn.functional.scaled_dot_product_attention(q, k.repeat(1, 3, 1, 1), v.repeat(1, 3, 1, 1))
    torch.testing.assert_close(inside, repeated)
    torch.testing.assert_close(outside, tiled)
    assert not torch.allclose(inside, outside)


@pytest.mark.parametrize("count", (0, 1, 2, 3))
@pytest.mark.parametrize("strategy", ("reference", "chunked", "sdpa"))
def test_rests_of_any_rank(count: int, strategy: str) -> None:
    lead = (2, 3, 2)[:count]
    q, k, v = (torch.randn(*lead, length, 4, dtype=torch.float64) for length in (5, 7, 7))
    with qkv.strategy(strategy), small_blocks(2, 3):
        found = qkv.attention(q, k, v, "..b i d, ..b j d, ..b j e -> ..b i e")
    torch.testing.assert_close(found, torch.nn.functional.scaled_dot_product_attention(q, k, v))


def test_masks_over_several_keys() -> None:
    """A window in two dimensions: neighbours of a pixel, through a function of all four coordinates."""
    pattern = "b h y x d, b h m n d, b h m n e -> b h y x e"
    sizes = {**SIZES, "y": 4, "x": 5, "m": 4, "n": 5}
    q, k, v = (torch.randn(2, 2, 4, 5, 4, dtype=torch.float64) for _ in range(3))
    near = qkv.keep(lambda y, x, m, n: (abs(y - m) <= 1) & (abs(x - n) <= 1))
    row, column = torch.arange(4), torch.arange(5)
    keep = ((row[:, None] - row).abs() <= 1)[:, None, :, None] & ((column[:, None] - column).abs() <= 1)[
        None, :, None, :
    ]
    expected = brute.attention(pattern, q, k, v, "m n", {**sizes, "e": 4}, keep[None, None])
    for strategy in ("reference", "chunked"):
        with qkv.strategy(strategy), small_blocks(2, 2):
            torch.testing.assert_close(qkv.attention(q, k, v, pattern, keep=near), expected)


def test_causal_says_which_of_several() -> None:
    """``query=`` and ``key=`` choose the coordinates that are compared; the others are free."""
    pattern = "b y i d, b x j d, b x j e -> b y i e"
    q, k, v = (torch.randn(2, 3, 5, 4, dtype=torch.float64) for _ in range(3))
    sizes = {"b": 2, "y": 3, "i": 5, "x": 3, "j": 5, "d": 4, "e": 4}
    index = torch.arange(5)
    for query, key, keep in (
        ("i", "j", (index[:, None] >= index)[None, None, :, None, :]),
        ("y", "x", (index[:3, None] >= index[:3])[None, :, None, :, None]),
    ):
        expected = brute.attention(pattern, q, k, v, "x j", sizes, keep)
        for strategy in ("reference", "chunked"):
            with qkv.strategy(strategy), small_blocks(2, 2):
                found = qkv.attention(q, k, v, pattern, keep=qkv.causal(query=query, key=key))
            torch.testing.assert_close(found, expected)


def test_merged_sizes_are_told_where_shapes_leave_them_open() -> None:
    q, k, v = torch.randn(6, 5, 4), torch.randn(7, 4), torch.randn(7, 4)
    pattern = "(g h) i d, j d, j e -> h g i e"
    found = qkv.attention(q, k, v, pattern, sizes={"g": 2})
    assert found.shape == (3, 2, 5, 4)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k.expand(6, 7, 4), v.expand(6, 7, 4))
    torch.testing.assert_close(found, expected.unflatten(0, (2, 3)).transpose(0, 1))
