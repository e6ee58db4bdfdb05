"""The codec's bound, exactly; what is not finite; and the order of packed codes, which kernels rely on."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qkv
import qkv.core
from qkv.cache import codec
from qkv.cache.codec import decode, encode, encode_into, width
from qkv.errors import InternalError
from qkv.testing import FAMILIES, Sizes

NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def exactly_bounded(x: torch.Tensor, bits: int) -> bool:
    codes, scale = encode(x, bits)
    back = decode(codes, scale, bits, x.shape[-1], torch.float64 if x.dtype == torch.float64 else torch.float32)
    step = scale.tolist()
    return all(
        abs(Fraction(a) - Fraction(b)) <= Fraction(step[n]) / 2
        for n, (row, other) in enumerate(zip(x.tolist(), back.tolist(), strict=True))
        for a, b in zip(row, other, strict=True)
    )


@pytest.mark.parametrize("bits", [8, 4])
@settings(max_examples=60)
@given(rows=st.lists(st.lists(NUMBERS, min_size=5, max_size=5), min_size=1, max_size=4))
def test_the_error_is_at_most_half_a_step(bits: int, rows: list[list[float]]) -> None:
    assert exactly_bounded(torch.tensor(rows, dtype=torch.float32), bits)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_halfway_and_tiny_and_huge_numbers(bits: int, dtype: torch.dtype) -> None:
    most = 127 if bits == 8 else 7
    ties = torch.arange(-most, most, dtype=torch.float64) + 0.5
    for size in (2.0**-140, 1e-3, 1.0, 3e4):
        x = torch.cat((ties, torch.tensor([float(most)]))) * size
        rows = x.to(dtype).unsqueeze(0)
        rows = rows.masked_fill(rows.isinf(), torch.finfo(dtype).max)
        assert exactly_bounded(rows if dtype in (torch.float64, torch.float32) else rows.float(), bits)
    odd = torch.rand(200, 33, dtype=torch.float64).mul(2).sub(1).to(dtype)
    assert exactly_bounded(odd if dtype in (torch.float64, torch.float32) else odd.float(), bits)


def test_the_comparison_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qkv.cache.codec._core_takes", lambda _: False)
    monkeypatch.setattr("qkv.cache.codec._rounded_up", lambda x: x * 0.9)
    assert not exactly_bounded(torch.randn(20, 16), 8)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_is_nan_and_alone(bits: int, odd: float) -> None:
    x = torch.randn(3, 40)
    x[1, 7] = odd
    codes, scale = encode(x, bits)
    back = decode(codes, scale, bits, 40, torch.float32)
    assert torch.isnan(scale).tolist() == [False, True, False]
    assert bool(torch.isnan(back[1]).all())
    assert bool(torch.isfinite(back[[0, 2]]).all())
    plain = codes[1] if bits == 8 else codes[1] - 0x88
    assert not bool(plain.any())


def test_codes_stay_in_their_range_and_zero_is_zero() -> None:
    codes, scale = encode(torch.randn(100, 32) * torch.logspace(-40, 35, 100).unsqueeze(-1), 8)
    assert int(codes.min()) >= -127
    assert int(codes.abs().max()) == 127
    codes, scale = encode(torch.zeros(2, 32), 8)
    assert not bool(codes.any())
    assert scale.tolist() == [0.0, 0.0]


def test_four_bits_lie_in_runs_of_32() -> None:
    x = torch.zeros(1, 40)
    x[0, 3], x[0, 19], x[0, 33] = 7.0, -7.0, 1.0
    codes, scale = encode(x, 4)
    assert codes.shape == (1, 32) == (1, width(40, 4))
    assert codes.dtype == torch.uint8
    assert scale.tolist() == [1.0 + 2**-15] or scale.tolist() == [1.0]
    low, high = (codes[0] & 15).tolist(), (codes[0] >> 4).tolist()
    assert low[3] == 8 + 7
    assert high[3] == 8 - 7
    assert low[16 + 1] == 8 + 1
    assert [n for n in range(32) if (low[n], high[n]) != (8, 8)] == [3, 17]


def same_bits(x: torch.Tensor, bits: int) -> bool:
    """Whether the core and torch make the same codes and scales of ``x``, NaN being NaN."""
    codes, scale = codec._by_torch(x, bits)
    size = width(x.shape[-1], bits)
    room = torch.full((*x.shape[:-2], x.shape[-2] + 2, size), 99, dtype=codes.dtype)
    steps = torch.full(room.shape[:-1], -1.0)
    assert codec._core_takes(x)
    encode_into(x, bits, room, steps, 1)
    around = room[..., [0, -1], :].eq(99).all() and steps[..., [0, -1]].eq(-1).all()
    inside = torch.equal(room[..., 1:-1, :], codes)
    return bool(around) and inside and torch.equal(steps[..., 1:-1].nan_to_num(-2.0), scale.nan_to_num(-2.0))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", [*FAMILIES])
def test_the_core_and_torch_give_the_same_bits(family: str, dtype: torch.dtype, bits: int) -> None:
    sizes = Sizes()
    keep = torch.ones(sizes.query_length, sizes.key_length, dtype=torch.bool).tril() if family == "poison" else None
    case = FAMILIES[family](sizes, dtype, keep=keep)
    for x in (case.k, case.v):
        assert same_bits(x, bits)
        assert same_bits(x.transpose(-1, -2), bits)  # the feature is a step apart


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_core_and_torch_agree_at_every_size_of_numbers(dtype: torch.dtype, bits: int) -> None:
    tops = torch.logspace(-330 if dtype == torch.float64 else -46, 40, 400, dtype=torch.float64).unsqueeze(-1)
    for size in (1, 31, 64, 80):
        x = (torch.randn(400, size, dtype=torch.float64) * tops).to(dtype)
        assert same_bits(x, bits)
    ties = (torch.arange(-127, 128, dtype=torch.float64) / 2).to(dtype)
    assert same_bits(ties.expand(3, -1), bits)
    odd = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, torch.finfo(dtype).max, 1e-45], dtype=dtype)
    assert same_bits(odd.unsqueeze(-1) * torch.ones(5, dtype=dtype), bits)
    assert same_bits(odd.unsqueeze(0), bits)
    assert same_bits(torch.zeros(2, 0, 8, dtype=dtype), bits)
    assert same_bits(torch.zeros(2, 3, 0, dtype=dtype), bits)


def test_the_comparison_of_core_and_torch_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qkv.cache.codec._rounded_up", lambda x: x)
    assert not same_bits(torch.randn(20, 16), 8)


def test_what_the_core_cannot_read_is_encoded_by_torch() -> None:
    x = torch.randn(3, 8)
    negated = torch.complex(x, x).conj().imag
    assert negated.is_neg()
    assert not codec._core_takes(negated)
    assert torch.equal(encode(negated, 8)[0], encode(-x, 8)[0])
    assert not codec._core_takes(torch.nn.Parameter(x))
    meta = encode(x.to("meta"), 4)
    assert (meta[0].shape, meta[1].shape) == ((3, 16), (3,))


def test_codes_and_rows_that_do_not_fit_are_an_error_of_ours() -> None:
    codes, scale = torch.empty(4, 8, dtype=torch.int8), torch.empty(4)
    with pytest.raises(InternalError) as found:
        encode_into(torch.randn(3, 8), 8, codes, scale, 2)
    assert str(found.value) == (
        "rows (3, 8) from slot 2 on do not fit codes (4, 8) and scales (4,); please report this"
    )
    for x, first in ((torch.randn(3, 8), -1), (torch.randn(3, 7), 0), (torch.randn(2, 3, 8), 0)):
        with pytest.raises(InternalError, match="do not fit"):
            encode_into(x, 8, codes, scale, first)
    with pytest.raises(InternalError, match="do not fit"):
        encode_into(torch.randn(3, 8), 8, codes, scale[:3], 0)
    with pytest.raises(InternalError, match="rows and codes that do not fit each other; please report this"):
        qkv.core.loaded().encode(0, 1, 3, [1], [1], 0, [1], 0, [])
