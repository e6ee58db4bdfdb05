"""Why a strategy refuses a problem, told a second time: from the problem alone, without the strategies' tables."""

from __future__ import annotations

import pytest
import torch

import qkv
from qkv.testing import Sizes
from tests.contract.problem import Problem


def expected(problem: Problem, strategy: str) -> tuple[str, ...]:
    """The beginning of each reason, in order; none when the strategy must run the problem."""
    return {"cpu": _cpu, "sdpa": _sdpa, "linear": _linear}.get(strategy, lambda problem: ())(problem)


def left_out(problem: Problem, strategy: str) -> bool:
    """Whether the strategy documents that it refuses the problem; fails where it documents so and runs it."""
    reasons = expected(problem, strategy)
    if not reasons:
        return False
    with pytest.raises(qkv.Refused) as refused:
        problem.run(strategy)
    assert all(found.startswith(told) for found, told in zip(refused.value.reasons, reasons, strict=True))
    return True


def _cpu(problem: Problem) -> tuple[str, ...]:
    if problem.made_weights.kind == "linear":
        return ("linear weights are not supported",)
    return ('renormalize="clamp" needs both maps',) if problem.weights == "clamped" else ()


def _sdpa(problem: Problem) -> tuple[str, ...]:
    sizes, reasons = problem.sizes, list[str]()
    if problem.made_weights.kind != "softmax":
        reasons.append(f"{problem.made_weights.kind} weights are not supported")
    if problem.score != "none":
        reasons.append("score term")
    if problem.weights in ("sink", "one sink", "off by one"):
        reasons.append("a sink is not supported")
    if 0 in (sizes.query_length, sizes.key_length):
        reasons.append("a size is 0")
    elif sizes.feature_size != sizes.value_size:
        reasons.append("feature and value feature differ in size")
    if problem.keep not in ("full", "causal"):
        reasons.append("keep=")
    elif problem.keep == "causal" and sizes.query_length != sizes.key_length:
        reasons.append("is_causal aligns at the first key")
    if not reasons and problem.keep != "full" and not _finite(problem):
        reasons.append("k or v holds NaN or infinity")
    return tuple(reasons)


def _linear(problem: Problem) -> tuple[str, ...]:
    if problem.made_weights.kind != "linear":
        reasons = [f"{problem.made_weights.kind} weights are not supported"]
    else:
        reasons = []
    if problem.keep in ("full", "padding"):
        reasons += ["decay without causal"] if problem.weights == "linear decay" else []
    elif problem.keep != "causal":
        reasons.append("keep=")
    elif problem.sizes.query_length != problem.sizes.key_length:
        reasons.append("causal in chunks needs as many keys as queries, at the same positions")
    if not reasons and problem.keep != "full" and not _finite(problem):
        reasons.append("k or v holds NaN or infinity")
    return tuple(reasons)


def _finite(problem: Problem) -> bool:
    _, k, v = problem.operands
    return bool(torch.isfinite(k).all() and torch.isfinite(v).all())


def small(sizes: Sizes) -> bool:
    """Whether a problem is small enough to be run again in many small blocks."""
    pairs = sizes.query_length * max(1, sizes.key_length) * sizes.query_heads * sizes.batch
    return pairs <= 16_000 and pairs * sizes.feature_size <= 1_000_000
