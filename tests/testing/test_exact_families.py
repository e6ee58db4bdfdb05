"""Ramps and dyadic values: exact on three kernels at every size of the grid, broken by one key too many or too few."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from qkv.errors import SpecError
from qkv.testing import STANDARD_AXES, Case, SimulatedKernel, Sizes, dyadic, make_keep, oracle, ramp, worst_case_ratio
from qkv.testing.exact_families import FLOAT16_GAP, UNDERFLOW_GAP

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
FEATURE_SIZES = [size for size in STANDARD_AXES["feature_size"] if isinstance(size, int) and size > 1]
LENGTH = 600  # more than two blocks of 256: both features of the keys matter


def rounded_oracle(case: Case) -> Tensor:
    return case.reference().output.to(case.q.dtype)


def tiled(case: Case) -> Tensor:
    return SimulatedKernel()(case.q, case.k, case.v, mask=case.keep)


def torch_sdpa(case: Case) -> Tensor:
    mask = None if case.keep is None else case.keep.expand(*case.q.shape[:3], case.k.shape[2])
    return torch.nn.functional.scaled_dot_product_attention(case.q, case.k, case.v, attn_mask=mask, enable_gqa=True)


KERNELS = [rounded_oracle, tiled, torch_sdpa]


KERNELS_AND_DTYPES = [
    (kernel, dtype) for kernel in KERNELS for dtype in DTYPES if not (kernel is tiled and dtype == torch.float64)
]  # the simulated kernel sums in float32


@pytest.mark.parametrize(("kernel", "dtype"), KERNELS_AND_DTYPES)
@pytest.mark.parametrize("feature_size", FEATURE_SIZES)
@pytest.mark.parametrize("direction", ["up", "down"])
def test_ramps_are_exact(
    kernel: Callable[[Case], Tensor], dtype: torch.dtype, feature_size: int, direction: str
) -> None:
    keep = make_keep("random", 1, 5, LENGTH, seed=feature_size)
    keep[..., 3, :] = False
    sizes = Sizes(1, 2, 1, 5, LENGTH, feature_size, 9)
    case = ramp(sizes, dtype, direction="up" if direction == "up" else "down", keep=keep, seed=feature_size)
    assert case.tolerance == "zero"
    assert worst_case_ratio(kernel(case), case) == 0.0


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_ramps_see_one_key_at_the_border(direction: str, dtype: torch.dtype) -> None:
    keep = make_keep("window", 1, 40, 40)
    case = ramp(Sizes(1, 2, 1, 40, 40), dtype, direction="up" if direction == "up" else "down", keep=keep)
    for shift in (-1, 1):
        moved = oracle(case.q, case.k, case.v, keep=keep.roll(shift, -1))
        assert worst_case_ratio(moved.output.to(dtype), case) == float("inf")


def test_the_float16_gap_at_feature_size_64_needs_bounded_values() -> None:
    """With values of any size and c = 128, as NUMERICS.md has them, 64 features are too many; hence |v| in [1, 2)."""
    v = torch.tensor([4.0, 1e-4], dtype=torch.float16)[None, None, :, None]
    for features, exact in ((32, True), (64, False)):
        k = torch.zeros(1, 1, 2, features, dtype=torch.float16)
        q = torch.zeros(1, 1, 1, features, dtype=torch.float16)
        k[..., 1, 1], q[..., 0], q[..., 1] = 1.0, 256 * 128.0, 128.0
        output = oracle(q, k, v).output.to(torch.float16)
        assert (output[0, 0, 0, 0] == v[0, 0, 1, 0]) == exact


def test_gaps_are_as_wide_as_the_derivation_asks() -> None:
    assert torch.exp(torch.tensor(-UNDERFLOW_GAP)) == 0
    assert 4 * torch.exp(torch.tensor(-FLOAT16_GAP)) < 2.0**-12


@pytest.mark.parametrize(("kernel", "dtype"), KERNELS_AND_DTYPES)
@pytest.mark.parametrize("key_length", [1, 2, 16, 64, 128, 1024])
def test_dyadic_is_exact(kernel: Callable[[Case], Tensor], dtype: torch.dtype, key_length: int) -> None:
    case = dyadic(Sizes(2, 4, 2, 3, key_length, 8, 7), dtype, seed=key_length)
    assert case.tolerance == "zero"
    assert case.expected is not None
    assert torch.equal(case.expected, case.expected.round())
    assert worst_case_ratio(kernel(case), case) == 0.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_dyadic_sees_one_key_too_many_or_too_few(dtype: torch.dtype) -> None:
    kept = torch.arange(80).expand(1, 1, 2, 80) < 64
    case = dyadic(Sizes(1, 2, 1, 2, 80), dtype, keep=kept, seed=1)
    assert worst_case_ratio(rounded_oracle(case), case) == 0.0
    for count in (63, 65):
        moved = oracle(case.q, case.k, case.v, keep=torch.arange(80).expand(1, 1, 2, 80) < count)
        assert worst_case_ratio(moved.output.to(dtype), case) == float("inf")


def test_dyadic_marks_its_exact_rows() -> None:
    case = dyadic(Sizes(query_length=9, key_length=9), keep=make_keep("causal", 2, 9, 9))
    assert case.exact is not None
    assert case.exact[0, 0].tolist() == [True, True, False, True, False, False, False, True, False]


def test_messages() -> None:
    with pytest.raises(
        SpecError, match=r"a ramp needs a feature size of at least 2, fewer than 65536 keys and a positive"
    ):
        ramp(Sizes(feature_size=1))
    with pytest.raises(SpecError, match=r"they are 16, 33, -1\.0"):
        ramp(Sizes(), scale=-1.0)
    with pytest.raises(
        SpecError, match=r"float16 ends at 65504: with scale 0\.01 neighbouring logits differ by less than 10"
    ):
        ramp(Sizes(), torch.float16, scale=0.01)
    with pytest.raises(SpecError, match=r"a row keeps 65536 keys; float16 holds means of at most 2\^15"):
        dyadic(Sizes(1, 1, 1, 1, 65536, 1, 1))
