"""The simulated kernel is right, and each of its planted faults is found by the families and the bounds."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from qkv.errors import SpecError
from qkv.testing import (
    BACKWARD_FAULTS,
    FAMILIES,
    FAULTS,
    NEEDS_MORE_THAN_A_CALL,
    Case,
    OracleResult,
    SimulatedBackward,
    SimulatedKernel,
    Sizes,
    case_ratios,
    dyadic,
    make_keep,
    oracle,
    ramp,
    row_sizes,
    sharp,
    standard_grid,
    worst_case_ratio,
    worst_lse_ratio,
    worst_ratio,
)


@cache
def grid_cases() -> list[tuple[bool, Case, OracleResult]]:
    """Every second row of the standard grid: whether it is causal, its case, its answer."""
    found: list[tuple[bool, Case, OracleResult]] = []
    for row in standard_grid().rows[::2]:
        sizes, name = row_sizes(row), str(row["keep"])
        keep = None if name == "full" else make_keep(name, sizes.batch, sizes.query_length, sizes.key_length)
        case = FAMILIES[str(row["family"])](sizes, row["dtype"], keep=keep, layout=str(row["layout"]))
        found.append((name == "causal", case, case.reference()))
    return found


def worst(kernel: SimulatedKernel, causal: bool, case: Case, right: OracleResult) -> float:
    output = kernel(case.q, case.k, case.v, causal=causal, mask=None if causal else case.keep)
    ratio = case_ratios(output, case, right)
    return float(ratio.max()) if ratio.numel() else 0.0


@pytest.mark.parametrize("splits", [1, 3])
def test_the_kernel_without_a_fault_is_right(splits: int) -> None:
    kernel = SimulatedKernel(splits=splits)
    assert max(worst(kernel, *entry) for entry in grid_cases()) <= 1


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in NEEDS_MORE_THAN_A_CALL])
def test_every_fault_is_found_on_the_grid(fault: str) -> None:
    kernel = SimulatedKernel(fault)
    assert any(worst(kernel, *entry) > 1 for entry in grid_cases())


OF_ARITHMETIC = (
    "mask one key late",
    "missing rescale",
    "tile for repeat",
    "last row unwritten",
    "key dropped at tile border",
    "scale twice",
    "stale keys",
    "batch stride for head stride",
    "accumulation in bfloat16",
    "logits rounded",
)


@pytest.mark.parametrize("fault", OF_ARITHMETIC)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sharp_alone_finds_the_faults_of_arithmetic(fault: str, dtype: torch.dtype) -> None:
    keep = make_keep("causal", 2, 65, 129)
    case = sharp(Sizes(query_length=65, key_length=129, feature_size=64), dtype, keep=keep, seed=1)
    if fault == "accumulation in bfloat16" and dtype == torch.bfloat16:
        # the one fault whose error is the size of what bfloat16 outputs may have: about twice the bound on long rows
        case = sharp(Sizes(1, 1, 1, 8, 1024, 64, 64), dtype, keep=None, seed=1)
        assert worst_case_ratio(SimulatedKernel(fault)(case.q, case.k, case.v), case) > 1
        return
    output = SimulatedKernel(fault)(case.q, case.k, case.v, causal=True)
    no_fault_here = fault == "logits rounded" and dtype == torch.float32
    assert (worst_case_ratio(output, case) > 1) != no_fault_here
    assert worst_case_ratio(SimulatedKernel()(case.q, case.k, case.v, causal=True), case) <= 1


def test_ramps_see_a_missing_rescale_and_dyadic_does_not() -> None:
    sizes, kernel = Sizes(key_length=64), SimulatedKernel("missing rescale")
    up, equal = ramp(sizes), dyadic(sizes)
    assert worst_case_ratio(kernel(up.q, up.k, up.v), up) == float("inf")
    assert worst_case_ratio(kernel(equal.q, equal.k, equal.v), equal) == 0.0


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_window_one_key_wide(direction: str) -> None:
    keep = make_keep("window", 2, 33, 33)
    case = ramp(Sizes(query_length=33), direction="up" if direction == "up" else "down", keep=keep)
    right, _ = SimulatedKernel().run(case.q, case.k, case.v, causal=True, window=5)
    wrong, _ = SimulatedKernel("window one key wide").run(case.q, case.k, case.v, causal=True, window=5)
    assert worst_case_ratio(right, case) == 0.0
    assert (worst_case_ratio(wrong, case) == float("inf")) == (direction == "down")  # the left border is the first key


def test_a_sink_for_every_split() -> None:
    case, sink = sharp(Sizes(key_length=129), seed=2), torch.linspace(-1, 3, 4)
    expected = oracle(case.q, case.k, case.v, sink=sink)
    for fault, splits, found in (("", 3, False), ("sink once per split", 3, True), ("sink once per split", 1, False)):
        output, lse = SimulatedKernel(fault, splits=splits).run(case.q, case.k, case.v, sink=sink)
        assert (worst_ratio(output, expected) > 1) == found
        assert (worst_lse_ratio(lse, expected) > 1) == found


def test_unknown_faults() -> None:
    with pytest.raises(SpecError, match=r'there is no fault "typo"\.\n    faults: mask one key late'):
        SimulatedKernel("typo")
    with pytest.raises(SpecError, match=r'there is no fault "typo"\.\n    faults: row sum missing'):
        SimulatedBackward("typo")
    assert len(FAULTS) >= 20
    assert len(BACKWARD_FAULTS) >= 8
