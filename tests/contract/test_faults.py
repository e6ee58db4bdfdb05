"""Planted faults: each line of a kernel that is wrong must be noticed by the suite's own checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

import qkv
from qkv.testing import Sizes
from tests.conftest import SEED
from tests.contract.blocking import small_blocks
from tests.contract.derivatives import drawn, gradients
from tests.contract.judge import check, compare
from tests.contract.mutation import BACKWARD, FORWARD, OTHERS, Fault
from tests.contract.problem import PATTERN, Problem
from tests.contract.test_gradients import SMALL
from tests.contract.test_gradients import test_definition as definition
from tests.contract.test_poison import test_a_key_that_some_rows_keep as partial_poison
from tests.contract.test_poison import test_rows_that_keep_nothing as dead_rows
from tests.contract.test_poison import test_scores as poisoned_scores
from tests.contract.test_poison import (
    test_values_that_are_not_finite_reach_as_arithmetic_says as values_that_are_not_finite,
)
from tests.contract.test_statistics import test_statistics as statistics

SIZES = Sizes(batch=2, query_heads=6, key_heads=2, query_length=19, key_length=33, feature_size=32, value_size=32)
SQUARE = Sizes(batch=2, query_heads=4, key_heads=2, query_length=270, key_length=270, feature_size=16, value_size=16)

Check = Callable[[], object]


def _forward(strategy: str = "chunked", sizes: Sizes = SIZES, **parts: object) -> Check:
    def run() -> None:
        problem = Problem(sizes, seed=SEED, **parts)  # type: ignore[arg-type]
        want = ("lse",) if strategy == "chunked" and problem.made_weights.kind == "softmax" else ()
        with small_blocks(8, 8, scores=256):
            check(compare(problem, strategy, problem.run(strategy, want=want), problem.answer()))

    return run


def _dropped() -> None:
    """Dropout by ``chunked`` in blocks is the dropout of ``reference``, in output and gradient."""
    problem = Problem(SMALL, keep="causal", dtype=torch.float64, seed=SEED, options={"dropout": 0.3, "seed": 5})
    grad, _ = drawn(problem, lse=False)
    with small_blocks(2, 3):
        outputs = [problem.run(strategy).output for strategy in ("reference", "chunked")]
        slopes = [gradients(problem, strategy, grad, None) for strategy in ("reference", "chunked")]
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(slopes[0], slopes[1])
    with qkv.strategy("chunked"):
        drawn_outputs = [problem.spec()(*problem.operands, align="end", dropout=0.3, seed=n) for n in range(200)]
    mean = torch.stack(drawn_outputs).mean(0)
    plain = problem.answer().output
    assert float((mean - plain).abs().mean() / plain.abs().mean()) < 0.1


def _placed() -> None:
    """Queries placed by number are where ``align`` puts them."""
    problem = Problem(SIZES, keep="causal", seed=SEED)
    with qkv.strategy("chunked"):
        output = problem.spec()(*problem.operands, positions={"i": 14})
    check(compare(problem, "chunked", qkv.run.Result(output, None, {}, None), problem.answer()))  # type: ignore[arg-type]


def _stepped() -> None:
    """The recurrent form gives what the whole sequence gives, with decay."""
    sizes = Sizes(batch=1, query_heads=2, key_heads=2, query_length=5, key_length=5, feature_size=4, value_size=4)
    problem = Problem(sizes, keep="causal", weights="linear decay", seed=SEED)
    q, k, v = problem.operands
    state, outputs, spec = None, [], problem.spec()
    for n in range(5):
        output, state = qkv.linear_step(spec, *(x[:, :, n : n + 1] for x in (q, k, v)), state)
        outputs.append(output)
    check(compare(problem, "linear", qkv.run.Result(torch.cat(outputs, 2), None, {}, None), problem.answer()))  # type: ignore[arg-type]


def _reordered() -> None:
    """Another layout of the output is the same numbers elsewhere."""
    problem = Problem(SIZES, keep="causal", seed=SEED)
    q, k, v = problem.operands
    with qkv.strategy("chunked"):
        moved = qkv.attention(
            q, k, v, PATTERN.replace("-> b (h g) i e", "-> e i b (h g)"), keep=qkv.causal(), align="end"
        )
    check(compare(problem, "chunked", qkv.run.Result(moved.permute(2, 3, 1, 0), None, {}, None), problem.answer()))  # type: ignore[arg-type]


IN_BLOCKS = "chunked in small blocks"
CHECKS: list[Check] = [
    *(
        _forward(keep=keep, family=f)
        for f in ("ramp up", "ramp down", "dyadic")
        for keep in ("causal", "window", "full")
    ),
    *(_forward(family=family, keep="causal") for family in ("randn", "sharp")),
    *(_forward(weights=name, keep="causal") for name in ("sink", "sigmoid", "differential", "paper", "clamped")),
    *(_forward(score=name, keep="window") for name in ("alibi", "bias", "shaw values")),
    *(_forward(place="rope", keep="causal", dtype=dtype) for dtype in (torch.float32, torch.bfloat16)),
    _forward("sdpa", SQUARE, keep="causal", scale=0.3),
    _forward("sdpa", SQUARE, keep="causal", family="sharp", dtype=torch.bfloat16, place="rope"),
    *(lambda value=value: values_that_are_not_finite(IN_BLOCKS, value) for value in (torch.inf, torch.nan)),  # type: ignore[misc]
    *(_forward("linear", SQUARE, keep=keep, weights="linear") for keep in ("causal", "padding")),
    _forward("linear", SQUARE, keep="causal", weights="linear decay"),
    lambda: partial_poison("window", IN_BLOCKS),
    *(lambda way=way: dead_rows("sink", way, False) for way in ("reference", IN_BLOCKS)),  # type: ignore[misc]
    *(lambda way=way: poisoned_scores("custom", "window", way) for way in ("reference", IN_BLOCKS)),  # type: ignore[misc]
    lambda: statistics({"keep": "sinks"}, torch.float32),
    *(
        lambda parts=parts: definition(parts, IN_BLOCKS)  # type: ignore[misc]
        for parts in (
            {"keep": "causal"},
            {"score": "t5", "weights": "sink", "keep": "dead rows"},
            {"score": "softcap", "keep": "window"},
            {"score": "shaw values", "keep": "window"},
            {"weights": "sigmoid", "keep": "window"},
            {"weights": "clamped", "keep": "window"},
        )
    ),
    _dropped,
    _placed,
    _stepped,
    _reordered,
]


def _failures() -> Iterator[str]:
    """What the checks say, one after the other, as long as somebody listens."""
    for number, run in enumerate(CHECKS):
        try:
            run()
        except (AssertionError, RuntimeError, ValueError, IndexError, TypeError) as error:
            yield f"check {number}: {type(error).__name__}: {str(error)[:80]}"


def test_without_a_fault_every_check_passes() -> None:
    assert list(_failures()) == []


@pytest.mark.parametrize("fault", [*FORWARD, *BACKWARD, *OTHERS], ids=str)
def test_fault_is_noticed(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    fault.plant(monkeypatch)
    first = next(_failures(), None)
    print(first)
    assert first is not None, f"nothing noticed: {fault.says}"
