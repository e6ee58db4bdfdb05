"""Each tolerance accepts what is right and refuses what is a little wrong."""

from __future__ import annotations

import pytest
import torch

from qkv.errors import DtypeError, SizeMismatch
from qkv.testing import (
    Linear,
    SimulatedKernel,
    Sizes,
    dyadic,
    lse_tolerance,
    make_keep,
    oracle,
    output_tolerance,
    ramp,
    randn,
    roundoff,
    sharp,
    worst_case_ratio,
    worst_codec_ratio,
    worst_lse_ratio,
    worst_ratio,
)

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_oracle_rounded_to_the_dtype_is_right_and_a_few_steps_away_is_not(dtype: torch.dtype) -> None:
    case = sharp(Sizes(), dtype, seed=1)
    right = oracle(case.q, case.k, case.v)
    rounded = right.output.to(dtype)
    assert worst_ratio(rounded, right) <= 1
    # off by a few units of roundoff everywhere: in float32 most of the bound is the error of the sharp logits
    units = 512 if dtype in (torch.float32, torch.float64) else 12
    assert worst_ratio((right.output * (1 + units * roundoff(dtype))).to(dtype), right) > 1


def test_the_formulas_of_the_table() -> None:
    case = randn(Sizes(), seed=2)
    right = oracle(case.q, case.k, case.v)
    size, delta = right.magnitude, right.delta[..., None]
    expected = 2 * 2**-8 * size + 2**-8 * right.output.abs() + 2 * delta * size
    torch.testing.assert_close(output_tolerance(right, torch.bfloat16), expected, rtol=1e-5, atol=0)
    expected = (16 + 2 * 33**0.5) * 2**-24 * size + delta * size
    torch.testing.assert_close(output_tolerance(right, torch.float32), expected, rtol=1e-5, atol=0)
    assert right.lse is not None
    expected = right.delta + (8 + 33**0.5) * 2**-24 * right.lse.abs().clamp(min=1)
    torch.testing.assert_close(lse_tolerance(right), expected, rtol=1e-12, atol=0)
    ratio = output_tolerance(right, torch.float64) / output_tolerance(right, torch.float32)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 2.0**-29), rtol=1e-5, atol=0)


def test_a_dead_row_has_no_tolerance() -> None:
    keep = make_keep("dead rows", 2, 17, 33)
    case = randn(Sizes(), keep=keep)
    right = case.reference()
    output = right.output.float()
    assert worst_ratio(output, right) <= 1
    output[0, 0, 0, 0] = 1e-45
    assert worst_ratio(output, right) == float("inf")
    assert bool((lse_tolerance(right)[0] == 0).all())


def test_nan_and_shape() -> None:
    case = randn(Sizes())
    right = case.reference()
    output = right.output.float()
    output[1, 3, 16, 15] = torch.nan
    assert worst_ratio(output, right) == float("inf")
    with pytest.raises(SizeMismatch, match=r"the shape is \(2, 4, 17, 15\), expected \(2, 4, 17, 16\)"):
        worst_ratio(output[..., :15], right)
    with pytest.raises(DtypeError, match=r"there is no bound for torch\.int32; there is for torch\.float64"):
        output_tolerance(right, torch.int32)
    with pytest.raises(DtypeError, match=r"these weights have no lse"):
        worst_lse_ratio(right.delta, oracle(case.q, case.k, case.v, weights=Linear()))


def test_no_elements_is_right() -> None:
    case = randn(Sizes(batch=0))
    assert worst_case_ratio(torch.zeros(0, 4, 17, 16), case) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("splits", [1, 3])
def test_lse_of_a_tiled_kernel_and_one_to_another_base(dtype: torch.dtype, splits: int) -> None:
    case, sink = sharp(Sizes(key_length=129), dtype, seed=3), torch.randn(4, generator=torch.Generator().manual_seed(3))
    right = oracle(case.q, case.k, case.v, sink=sink)
    kernel = SimulatedKernel(splits=splits)
    assert worst_lse_ratio(kernel.run(case.q, case.k, case.v, sink=sink)[1], right) <= 0.5
    wrong = SimulatedKernel("lse base 2", splits=splits)
    assert worst_lse_ratio(wrong.run(case.q, case.k, case.v, sink=sink)[1], right) > 100


def test_what_float16_weights_lose_is_allowed_and_no_more() -> None:
    """A weight below 2^-14 beside one of 1 is rounded to a multiple of 2^-24, which a value of 65504 makes visible."""
    q = torch.linspace(-12, -10, 101)[None, None, :, None].half()
    k, v = (
        torch.tensor([0.0, 1.0])[None, None, :, None].half(),
        torch.tensor([1e-3, 65504.0])[None, None, :, None].half(),
    )
    right = oracle(q, k, v, scale=1.0)
    output = SimulatedKernel()(q, k, v, scale=1.0)
    strict = output_tolerance(right, torch.float16) - right.lost[torch.float16]
    assert bool(((output.double() - right.output).abs() > strict).any())
    assert worst_ratio(output, right) <= 1
    assert worst_ratio(1.01 * output, right) > 1


def test_codec() -> None:
    x = torch.linspace(-1, 1, 101, dtype=torch.float64)
    step = torch.tensor(0.0625, dtype=torch.float64)
    restored = (x / step).round() * step
    assert worst_codec_ratio(x, restored, step) <= 1
    assert worst_codec_ratio(x, (x / step).floor() * step, step) > 1
    assert worst_codec_ratio(x, x, torch.tensor(0.0)) == 0.0
    assert worst_codec_ratio(x, x + 1e-9, torch.tensor(0.0)) == float("inf")


def test_exact_rows_allow_nothing() -> None:
    case = ramp(Sizes(), torch.float32)
    assert case.expected is not None
    assert worst_case_ratio(case.expected, case) == 0.0
    off = case.expected.clone()
    off[0, 0, 0, 0] = torch.nextafter(off[0, 0, 0, 0], torch.tensor(9.0))
    assert worst_case_ratio(off, case) == float("inf")
    with pytest.raises(DtypeError, match=r"the output is torch\.float64, the inputs are torch\.float32"):
        worst_case_ratio(case.expected.double(), case)


def test_rows_that_are_not_exact_are_judged_by_the_bound() -> None:
    case = dyadic(Sizes(), keep=make_keep("causal", 2, 17, 33))
    assert case.tolerance == "bound"
    output = case.reference().output.float()
    assert worst_case_ratio(output, case) <= 1
    assert case.exact is not None
    output[~case.exact] *= 1.001
    assert 1 < worst_case_ratio(output, case) < float("inf")
