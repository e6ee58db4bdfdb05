"""How one strategy did on one problem, against the float64 answer; the only place where the suite compares."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

import qkv
from qkv.run import Result
from qkv.testing import OracleResult, worst_lse_ratio, worst_ratio
from qkv.testing.bounds import case_ratios, output_tolerance
from tests.contract.problem import Problem
from tests.contract.refusals import expected


@dataclass(frozen=True, slots=True)
class Verdict:
    """A strategy's worst ratios of error to bound on one problem, or None where it refused it as documented."""

    strategy: str
    output: float | None
    lse: float | None = None


def judge(problem: Problem, strategy: str, answer: OracleResult) -> Verdict:
    """Runs the problem and compares. Fails where a refusal is not the documented one, or where there should be none."""
    want = ("lse",) if strategy in ("reference", "chunked", "cpu") and answer.lse is not None else ()
    reasons = expected(problem, strategy)
    try:
        result = problem.run(strategy, want=want)
    except qkv.Refused as refused:
        assert refused.strategy == strategy
        assert len(refused.reasons) == len(reasons), (refused.reasons, reasons)
        for found, documented in zip(refused.reasons, reasons, strict=True):
            assert found.startswith(documented), (found, documented)
        return Verdict(strategy, None)
    assert not reasons, f"{strategy} ran what it documents to refuse: {reasons}"
    return compare(problem, strategy, result, answer)


def compare(problem: Problem, strategy: str, result: Result, answer: OracleResult) -> Verdict:
    """The worst ratios of a result that was computed."""
    output = result.output
    assert output.dtype == problem.dtype
    if problem.is_exact and problem.case.expected is not None:
        ratios = case_ratios(output, problem.case, answer)
        worst = float(ratios.max()) if ratios.numel() else 0.0
    else:
        worst = worst_ratio(_within(output, answer), answer, problem.dtype)
    dead = (answer.count == 0)[..., None]
    assert not bool((output.masked_fill(~dead, 0.0) != 0).any()), "a row that keeps nothing is not exactly 0"
    return Verdict(strategy, worst, None if result.lse is None else worst_lse_ratio(result.lse, answer))


def _within(output: Tensor, answer: OracleResult) -> Tensor:
    """The output where its dtype can hold the answer; an answer beyond the dtype's range is right as an infinity."""
    largest = torch.finfo(output.dtype).max
    beyond = answer.output.abs() + output_tolerance(answer, output.dtype) >= largest
    right = beyond & output.isinf() & (output.sign() == answer.output.sign())
    return torch.where(right, answer.output, output.double())


def check(verdict: Verdict) -> None:
    """Fails where a ratio is above 1."""
    for name, ratio in (("output", verdict.output), ("lse", verdict.lse)):
        assert ratio is None or (not math.isnan(ratio) and ratio <= 1), (
            f"{verdict.strategy}: {name} at {ratio:.4g} of its bound"
        )
