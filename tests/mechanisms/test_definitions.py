"""Each of the fifteen against its formula in plain torch, on both strategies that run everything."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

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

N = 7


@pytest.fixture(params=["reference", "chunked"], autouse=True)
def _strategy(request: pytest.FixtureRequest) -> Iterator[None]:
    with qkv.strategy(request.param):
        yield


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def heads(num_heads: int = 3, num_key_heads: int | None = None, d: int = 4, e: int = 6) -> tuple[Tensor, ...]:
    keys = num_key_heads or num_heads
    return draw(2, num_heads, N, d), draw(2, keys, N, d), draw(2, keys, N, e)


def check(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_scaled_dot_product(scale: float | None) -> None:
    q, k, v = draw(2, 5, 4), draw(2, N, 4), draw(2, N, 6)
    expected = torch.stack([one_head(q[b], k[b], v[b], scale=scale) for b in range(2)])
    check(mechanisms.scaled_dot_product(scale=scale)(q, k, v), expected)
    check(mechanisms.flash(scale=scale)(q, k, v), expected)


def test_flash_is_the_same_spec() -> None:
    assert mechanisms.flash() == mechanisms.scaled_dot_product()


def test_multi_head_is_slices_of_the_feature_axis() -> None:
    q, k, v = draw(2, 5, 12), draw(2, N, 12), draw(2, N, 9)
    found = mechanisms.multi_head()(q, k, v, sizes={"h": 3})
    for b in range(2):
        for h in range(3):
            own, values = slice(4 * h, 4 * h + 4), slice(3 * h, 3 * h + 3)
            check(found[b, :, values], one_head(q[b, :, own], k[b, :, own], v[b, :, values]))


def test_multi_head_with_projections_is_torchs_module() -> None:
    module = torch.nn.MultiheadAttention(12, 3, bias=False, batch_first=True, dtype=torch.float64)
    x, source = draw(2, 5, 12), draw(2, N, 12)
    query, key, value = module.in_proj_weight.detach().chunk(3)
    expected, _ = module(x, source, source)
    output = module.out_proj.weight.detach()
    found = mechanisms.multi_head_projected(x, source, query, key, value, output, num_heads=3)
    check(found, expected.detach())


def test_multi_head_needs_heads_that_divide() -> None:
    with pytest.raises(qkv.SizeMismatch, match="h"):
        mechanisms.multi_head()(draw(1, 3, 10), draw(1, 3, 10), draw(1, 3, 10), sizes={"h": 3})


def test_causal() -> None:
    q, k, v = heads()
    kept = mask(N, N, lambda i, j: j <= i)
    check(mechanisms.causal()(q, k, v), per_head(q, k, v, lambda h, *x: one_head(*x, kept=kept)))


def test_cross_with_and_without_padding() -> None:
    q, (_, k, v) = draw(2, 3, 4, 4), heads()
    check(mechanisms.cross()(q, k, v), per_head(q, k, v, lambda h, *x: one_head(*x)))
    there = torch.ones(2, N, dtype=torch.bool)
    there[1, 4:] = False
    found = mechanisms.cross(padding=there)(q, k, v)
    check(found[1], per_head(q[1:], k[1:, :, :4], v[1:, :, :4], lambda h, *x: one_head(*x))[0])


def test_multi_query_and_grouped_query() -> None:
    q, k, v = heads(6, 1)
    expected = per_head(q, k, v, lambda h, *x: one_head(*x))
    check(mechanisms.multi_query()(q, k[:, 0], v[:, 0]), expected)
    check(mechanisms.grouped_query()(q, k, v), expected)
    q, k, v = heads(6, 2)
    check(mechanisms.grouped_query()(q, k, v), per_head(q, k, v, lambda h, *x: one_head(*x)))
    q, k, v = heads(6, 6)
    check(mechanisms.grouped_query()(q, k, v), per_head(q, k, v, lambda h, *x: one_head(*x)))


def test_relative_position_bias_clipped() -> None:
    (q, k, v), table = heads(), draw(5, 3)
    rows = distances(N, N).clamp(-2, 2) + 2
    expected = per_head(q, k, v, lambda h, *x: one_head(*x, change=lambda s: s + table[rows, h]))
    check(mechanisms.relative_position_bias(table)(q, k, v), expected)
    one = draw(5)
    expected = per_head(q, k, v, lambda h, *x: one_head(*x, change=lambda s: s + one[rows]))
    check(mechanisms.relative_position_bias(one)(q, k, v), expected)


def test_relative_position_bias_in_buckets() -> None:
    (q, k, v), table = heads(), draw(8, 3)
    rows = torch.tensor([[t5_bucket(int(r), bidirectional=True, buckets=8) for r in row] for row in distances(N, N)])
    expected = per_head(q, k, v, lambda h, *x: one_head(*x, change=lambda s: s + table[rows, h]))
    check(mechanisms.relative_position_bias(table, buckets="t5")(q, k, v), expected)


@pytest.mark.parametrize("interleaved", [True, False])
def test_rope(interleaved: bool) -> None:
    q, k, v = heads(d=8)

    def turn(x: Tensor) -> Tensor:
        return turned(x, ladder(500.0, 8), interleaved=interleaved)

    expected = per_head(q, k, v, lambda h, q, k, v: one_head(turn(q), turn(k), v))
    check(mechanisms.rope(theta=500.0, interleaved=interleaved)(q, k, v), expected)


@pytest.mark.parametrize("num_heads", [3, 4])
def test_alibi(num_heads: int) -> None:
    q, k, v = heads(num_heads)
    slopes = alibi_slopes(num_heads)
    kept = mask(N, N, lambda i, j: j <= i)
    away = distances(N, N).abs()
    expected = per_head(q, k, v, lambda h, *x: one_head(*x, kept=kept, change=lambda s: s - slopes[h] * away))
    check(mechanisms.alibi(keep=qkv.causal())(q, k, v), expected)
    own = draw(num_heads)
    expected = per_head(q, k, v, lambda h, *x: one_head(*x, change=lambda s: s - own[h] * away))
    check(mechanisms.alibi(own)(q, k, v), expected)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("name", "feature_map"), [("elu1", lambda x: torch.where(x > 0, x + 1, x.exp())), ("exp", torch.exp)]
)
def test_linear(causal: bool, name: str, feature_map: Callable[[Tensor], Tensor]) -> None:
    q, k, v = heads()
    kept = mask(N, N, lambda i, j: j <= i or not causal)

    def head(h: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = (feature_map(q) @ feature_map(k).T) * kept
        return weights / weights.sum(-1, keepdim=True) @ v

    check(mechanisms.linear(name, causal=causal)(q, k, v), per_head(q, k, v, head))  # type: ignore[arg-type]


def test_sliding_window() -> None:
    q, k, v = heads()
    kept = mask(N, N, lambda i, j: -1 <= i - j <= 2)
    check(mechanisms.sliding_window(2, 1)(q, k, v), per_head(q, k, v, lambda h, *x: one_head(*x, kept=kept)))


def test_bigbird() -> None:
    q, k, v = heads()
    kept = mask(N, N, lambda i, j: abs(i - j) <= 1 or min(i, j) < 2)
    expected = per_head(q, k, v, lambda h, *x: one_head(*x, kept=kept))
    check(mechanisms.bigbird(num_global=2, num_random=0)(q, k, v), expected)


def test_bigbirds_random_keys_are_some_and_the_same_in_every_call() -> None:
    q, k, _ = heads()
    unit = torch.eye(N, dtype=torch.float64).expand(2, 3, N, N)
    spec = mechanisms.bigbird(num_random=2, seed=3)
    seen = spec(q, k, unit) > 0
    assert torch.equal(seen, spec(draw(2, 3, N, 4), k, unit) > 0)
    plain = mask(N, N, lambda i, j: abs(i - j) <= 1 or min(i, j) < 1)
    assert seen[:, :, plain].all()
    assert 0 < (seen[0, 0] & ~plain).sum() <= 2 * N


def both_maps(lam: float, q: Tensor, k: Tensor) -> Tensor:
    half = q.shape[-1] // 2
    first, second = (
        soft(q[:, part] @ k[:, part].T / math.sqrt(half)) for part in (slice(0, half), slice(half, 2 * half))
    )
    return first - lam * second


def test_differential_paper_form() -> None:
    (q, k, v), lam = heads(), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    expected = per_head(q, k, v, lambda h, q, k, v: (1 - 0.8) * head_norm(both_maps(float(lam[h]), q, k) @ v))
    check(mechanisms.differential(lam, lambda_init=0.8)(q, k, v), expected)


def test_differential_clamped_form() -> None:
    q, k, v = heads()

    def head(h: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = both_maps(0.5, q, k).clamp(min=0)
        return weights / weights.sum(-1, keepdim=True) @ v

    check(mechanisms.differential_clamped(0.5)(q, k, v), per_head(q, k, v, head))


def test_latent_rebuilt_absorbed_and_plain() -> None:
    """Keys rebuilt, the latents attended to directly, and the formula agree."""
    rotary, content, size, e, num_heads = 4, 6, 5, 3, 2
    x = draw(2, N, 10)
    down, up_key, up_value = draw(size, 10), draw(num_heads * content, size), draw(num_heads * e, size)
    rotary_key = draw(rotary, 10)
    q_rotary, q_content = draw(2, num_heads, N, rotary), draw(2, num_heads, N, content)
    keys, values = mechanisms.latent_keys_values(x, down, up_key, up_value, rotary_key, num_heads=num_heads)
    queries = torch.cat((q_rotary, q_content), dim=-1)
    spec = mechanisms.latent(rotary_size=rotary, content_size=content, keep=qkv.causal())
    found = spec(queries, keys, values)

    kept = mask(N, N, lambda i, j: j <= i)
    latents = x @ down.T

    def head(b: int, h: int) -> Tensor:
        def turn(rows: Tensor) -> Tensor:
            return turned(rows, ladder(10000.0, rotary), interleaved=True)

        key = latents[b] @ up_key[h * content : (h + 1) * content].T
        value = latents[b] @ up_value[h * e : (h + 1) * e].T
        scores = q_content[b, h] @ key.T + turn(q_rotary[b, h]) @ turn(x[b] @ rotary_key.T).T
        return soft(scores / math.sqrt(rotary + content), kept) @ value

    check(found, torch.stack([torch.stack([head(b, h) for h in range(num_heads)]) for b in range(2)]))

    scale = (rotary + content) ** -0.5
    absorbed = mechanisms.latent_absorbed(rotary_size=rotary, latent_size=size, scale=scale, keep=qkv.causal(query="i"))
    cached = torch.cat((x @ rotary_key.T, latents), dim=-1)
    inside = absorbed(torch.cat((q_rotary, mechanisms.absorb(q_content, up_key)), dim=-1), cached, latents)
    check(inside @ up_value.reshape(num_heads, e, size).transpose(1, 2), found)


def test_latent_without_a_rotary_part() -> None:
    x, down, up_key, up_value = draw(2, N, 10), draw(5, 10), draw(8, 5), draw(6, 5)
    keys, values = mechanisms.latent_keys_values(x, down, up_key, up_value, num_heads=2)
    assert keys.shape == (2, 2, N, 4)
    q = draw(2, 2, N, 4)
    check(mechanisms.latent()(q, keys, values), per_head(q, keys, values, lambda h, *x: one_head(*x)))


@pytest.mark.parametrize(("rotary", "rest"), [(2, 47), (64, 128), (64, 512), (2, 212), (4, 0)])
def test_latents_rotary_part_is_exactly_that_large(rotary: int, rest: int) -> None:
    """The share of the features is cut to a whole number, which must not lose one to rounding."""
    term = mechanisms.latent(rotary_size=rotary, content_size=rest).position
    assert term is not None
    assert term.rotary_size(rotary + rest) == rotary


@pytest.mark.parametrize("rotary", [-2, 3])
def test_latent_refuses_a_rotary_part_that_is_no_pairs(rotary: int) -> None:
    with pytest.raises(qkv.SpecError, match=f"a rotary part of {rotary} features beside 8"):
        mechanisms.latent(rotary_size=rotary, content_size=8)
