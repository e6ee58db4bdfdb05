"""The conformance run: a right function passes, every faulty one fails, and what it says about torch SDPA is true."""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qkv.core import cpu_features
from qkv.errors import SpecError
from qkv.testing import (
    BACKWARD_FAULTS,
    FAULTS,
    NEEDS_MORE_THAN_A_CALL,
    OPTIONS,
    Report,
    SimulatedBackward,
    SimulatedKernel,
    conformance,
    differentiable,
    row_sizes,
    standard_grid,
)
from qkv.testing.grid import Row

DOCUMENT = Path(__file__).parents[2] / "docs" / "conformance.md"
RIGHT = SimulatedKernel()


def sdpa(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    return torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


@cache
def sdpa_report() -> Report:
    return conformance(sdpa, supports=OPTIONS)


def small_rows() -> list[Row]:
    """The 70 cheapest rows of the grid."""

    def work(row: Row) -> int:
        sizes = row_sizes(row)
        pairs = sizes.batch * sizes.query_heads * sizes.query_length * max(1, sizes.key_length)
        return pairs * (sizes.feature_size + sizes.value_size)

    return sorted(standard_grid().rows, key=work)[:70]


def quick(fn: Any, **options: Any) -> Report:
    return conformance(fn, **{"rows": small_rows(), "dtypes": (torch.float32,), **options})


def test_a_right_function_passes_everything() -> None:
    report = conformance(differentiable(RIGHT, SimulatedBackward()), supports=OPTIONS, rows=standard_grid().rows[::2])
    assert report.ok, str(report)
    assert report.passed > 150
    assert report.not_run == ()


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in NEEDS_MORE_THAN_A_CALL])
def test_every_fault_of_a_kernel_fails(fault: str) -> None:
    report = quick(SimulatedKernel(fault))
    assert not report.ok
    assert {finding.kind for finding in report.examples} == set(report.kinds)


@pytest.mark.parametrize("fault", BACKWARD_FAULTS)
def test_every_fault_of_a_backward_pass_fails(fault: str) -> None:
    report = quick(differentiable(RIGHT, SimulatedBackward(fault)), supports=OPTIONS)
    assert not report.ok
    assert all("gradient" in finding.check for finding in report.failures)


def table(text: str) -> dict[str, int]:
    """The kinds of a printed report and how many checks each has."""
    return {kind: int(checks) for kind, checks in re.findall(r"^  (\S.*?) {2,}(\d+)  (?:no|\d)", text, re.MULTILINE)}


def test_the_document_says_what_sdpa_breaks() -> None:
    report, document = sdpa_report(), DOCUMENT.read_text(encoding="utf-8")
    found, written = table(str(report)), table(document)
    assert set(written) >= {"causal alignment", "NaN leaks", "no keys", "gradient NaN leaks", "nan that others keep"}
    # how near a bfloat16 sum comes to its bound, and which kernel runs for a layout, depends on the processor
    spared = {"gradient outside the bound", "contiguous twin"}
    faint = {"outside the bound", "large logits"}  # products of bfloat16 take subnormals for 0, where there are any
    if cpu_features()["avx512_bf16"] or cpu_features()["amx_bf16"]:
        spared |= faint
        assert all("torch.bfloat16" in finding.code for finding in report.failures if finding.kind in faint)
    for kind in set(written) | set(found):
        if kind not in spared:
            assert found.get(kind) == written.get(kind), f"{report}"
        assert f"| {kind} |" in document
    assert all(finding.ratio < 2 for finding in report.of_kind("gradient outside the bound"))


def test_sdpa_with_queries_at_the_first_keys_is_aligned() -> None:
    report = quick(sdpa, align="start")
    assert "causal alignment" not in report.kinds
    assert "causal alignment" in quick(sdpa, align="end").kinds


def test_the_smallest_examples_are_small_and_fail_again() -> None:
    example = next(finding for finding in sdpa_report().examples if finding.kind == "causal alignment")
    assert example.code in DOCUMENT.read_text(encoding="utf-8").replace("\n\n```", "\n```")
    for finding in sdpa_report().examples:
        names: dict[str, Any] = {"fn": sdpa}
        *lines, last = finding.code.splitlines()
        exec("\n".join(lines), names)
        if "gradients" not in finding.code:
            assert eval(last, names) > 1  # noqa: S307  as above
        elif "NaN" in finding.kind:
            exec(last, names)
            assert any(bool(gradient.isnan().any()) for gradient in names["gradients"])


def test_what_is_not_supported_is_never_asked_for_and_is_listed() -> None:
    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        assert q.shape[1] == k.shape[1]
        assert q.shape[-1] == v.shape[-1]
        return RIGHT(q, k, v)

    report = quick(plain, supports=[])
    assert report.ok, str(report)
    reasons = {entry.reason for entry in report.not_run}
    assert {"supports lacks gqa", "supports lacks mask", "supports lacks scale", "supports lacks value_size"} <= reasons
    assert "supports lacks causal, gqa" not in reasons  # without the flag a causal row asks for a mask
    total = len(small_rows()) + len(quick(RIGHT, rows=[]).failures) + quick(RIGHT, rows=[]).passed
    gradients = sum(entry.check.startswith("gradients") for entry in report.not_run)
    assert report.passed + len(report.not_run) == total + gradients
    assert "not run: " in str(report)
    assert "supports lacks mask (the first: " in str(report)


def test_an_exception_is_a_finding() -> None:
    def narrow(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        if q.shape[-1] > 64:
            raise ValueError("feature size above 64\nsecond line")
        return RIGHT(q, k, v, **options)

    report = quick(narrow)
    assert report.kinds == ("raises ValueError",)
    assert report.examples[0].detail == "feature size above 64"
    assert report.examples[0].code.count("feature_size=80") == 1
    assert report.passed > 50


def divides(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    return RIGHT(q, k, v, **options) * (len(q) // len(q))


def first_head_s_mask(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, **options: Any) -> Tensor:
    return RIGHT(q, k, v, mask=None if mask is None else mask[:, :1], **options)


def overwrites(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    output = RIGHT(q, k, v, **options)
    v.zero_()
    return output


WRONG = {
    "shape or dtype": lambda q, k, v, **options: RIGHT(q, k, v, **options).double(),
    "inputs changed": overwrites,
    "repeatability": lambda q, k, v, **options: RIGHT(q, k, v, **options) * (1 + 1e-6 * torch.randn(1)),
    "values scaled": lambda q, k, v, **options: RIGHT(q, k, v, **options) + 1e-7,
    "neighbours changed": lambda q, k, v, **options: RIGHT(q, k, v, **options) + 0 * q.sum(),
    "aliased inputs": lambda q, k, v, **options: RIGHT(q, k, v, **options) * (2.0 if q is k else 1.0),
    "empty batch raises ZeroDivisionError": divides,
    "explicit scale": lambda q, k, v, **options: RIGHT(q, k, v, **{**options, "scale": None}),
    "mask for each head": first_head_s_mask,
}


@pytest.mark.parametrize("kind", WRONG)
def test_each_kind_of_check_can_fail(kind: str) -> None:
    assert kind in quick(WRONG[kind]).kinds


def test_progress_is_reported_in_long_runs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, str]] = []
    quick(RIGHT, rows=[], progress=lambda *state: seen.append(state))
    assert seen == []
    # the function has the module's name, so that the module is found where Python keeps it
    monkeypatch.setattr(sys.modules["qkv.testing.conformance"], "PROGRESS_S", 0.0)
    quick(RIGHT, rows=[], progress=lambda *state: seen.append(state))
    assert [done for done, _, _ in seen] == list(range(len(seen)))
    assert all(total == len(seen) and name for _, total, name in seen)


def test_unknown_options() -> None:
    with pytest.raises(
        SpecError, match=r"supports names what there is not: softcap\.\n    causal: the argument causal"
    ):
        conformance(RIGHT, supports={"softcap"})


def test_json() -> None:
    report = quick(SimulatedKernel("stale keys"))
    data = json.loads(report.to_json())
    assert data["ok"] is False
    assert data["passed"] == report.passed
    assert len(data["failures"]) == len(report.failures)
    assert {finding["ratio"] == "inf" for finding in data["failures"]} == {True, False}
