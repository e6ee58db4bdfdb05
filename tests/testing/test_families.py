"""Each family makes the inputs that it promises, the same ones every time."""

from __future__ import annotations

import pytest
import torch

from qkv.errors import SizeMismatch
from qkv.testing import (
    FAMILIES,
    LAYOUTS,
    Case,
    SimulatedKernel,
    Sizes,
    dyadic,
    extreme,
    make_keep,
    poison,
    ramp,
    randn,
    sharp,
    worst_case_ratio,
)

SIZES = Sizes()
KEEP = make_keep("padding", 2, 17, 33, seed=1)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", LAYOUTS[:6])
def test_the_repr_makes_the_case_again(family: str, layout: str) -> None:
    case = FAMILIES[family](SIZES, torch.bfloat16, keep=KEEP, seed=3, layout=layout)
    names = {**FAMILIES, "Sizes": Sizes, "torch": torch, "keep": KEEP, "ramp": ramp}
    again: Case = eval(repr(case), names)  # noqa: S307  the text is this test's own
    for x, y in ((case.q, again.q), (case.k, again.k), (case.v, again.v)):
        assert torch.equal(x.nan_to_num(7.0), y.nan_to_num(7.0))
        assert x.stride() == y.stride()
    other = FAMILIES[family](SIZES, torch.bfloat16, keep=KEEP, seed=4, layout=layout)
    assert not torch.equal(case.v.nan_to_num(7.0), other.v.nan_to_num(7.0))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_right_kernel_passes(family: str, dtype: torch.dtype) -> None:
    case = FAMILIES[family](Sizes(value_size=24), dtype, keep=KEEP, seed=5)
    output = SimulatedKernel()(case.q, case.k, case.v, mask=KEEP)
    assert worst_case_ratio(output, case) <= 1
    assert worst_case_ratio(4 * output, case) > 1  # extreme logits have errors that let an output double


def test_sharp_is_randn_with_larger_queries() -> None:
    assert torch.equal(sharp(SIZES, seed=2).q, 4 * randn(SIZES, seed=2).q)
    assert torch.equal(sharp(SIZES, seed=2).k, randn(SIZES, seed=2).k)


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_holds_what_it_says(dtype: torch.dtype) -> None:
    case = extreme(SIZES, dtype, seed=2)
    logits = case.q.double() @ case.k.double().repeat_interleave(2, 1).mT / 4
    assert 2.9e5 < float(logits.abs().max()) < 3.1e5
    v = case.v.double()
    assert float(v.max()) == (65280 if dtype == torch.bfloat16 else 65504)
    assert bool(((v != 0) & (v.abs() < torch.finfo(dtype).smallest_normal)).any())
    assert bool(((v == 0) & v.signbit()).any())


def test_poison_is_where_nothing_may_look() -> None:
    keep = KEEP & make_keep("dead rows", 2, 17, 33)
    case = poison(SIZES, keep=keep, seed=2)
    unused = ~keep.any(2)
    assert bool((case.k.isfinite().all(-1) == ~unused).all())
    assert bool((case.v.isfinite().all(-1) == ~unused).all())
    assert bool((case.q.isnan().all(-1) == ~keep.any(3)).all())
    assert bool(case.k.isinf().any())


def test_partial_poison_spoils_only_those_who_keep_it() -> None:
    keep = make_keep("causal", 2, 17, 17)
    case = poison(Sizes(key_length=17), keep=keep, partial=True)
    right = case.reference()
    assert bool(right.output[:, :, :16].isfinite().all())
    assert bool(right.output[:, :, 16].isnan().all())
    assert worst_case_ratio(SimulatedKernel()(case.q, case.k, case.v, causal=True), case) <= 1
    leaky = SimulatedKernel("NaN multiplied by zero")(case.q, case.k, case.v, causal=True)
    assert worst_case_ratio(leaky, case) == float("inf")


def test_stride_0_heads_leave_the_queries_different() -> None:
    case = randn(SIZES, layout="stride-0 heads")
    assert case.k.stride(1) == case.v.stride(1) == 0
    assert not torch.equal(case.q[:, 0], case.q[:, 1])


def test_tolerance_is_named() -> None:
    assert randn(SIZES).tolerance == "bound"
    assert ramp(SIZES).tolerance == "zero"
    assert dyadic(Sizes(key_length=32)).tolerance == "zero"
    assert dyadic(SIZES).tolerance == "bound"


def test_messages() -> None:
    with pytest.raises(SizeMismatch, match=r"query heads 5 are no multiple of key heads 2"):
        Sizes(query_heads=5)
    with pytest.raises(SizeMismatch, match=r"keep \(2, 1, 17, 33\) does not broadcast to b h i j = \(2, 4, 17, 30\)"):
        randn(Sizes(key_length=30), keep=KEEP)
