"""The covering arrays on every strategy, against the oracle; what is refused is refused with the documented reason."""

from __future__ import annotations

import pytest

from tests.contract.blocking import small_blocks
from tests.contract.judge import Verdict, check, judge
from tests.contract.problem import STRATEGIES, Problem
from tests.contract.refusals import small
from tests.contract.rows import problems
from tests.contract.tally import note

ARRAYS = ("everything", "fused", "states")
ROWS = [(name, number) for name in ARRAYS for number in range(len(problems(name)))]


@pytest.mark.parametrize(("array", "number"), ROWS)
def test_row(array: str, number: int, request: pytest.FixtureRequest) -> None:
    """One problem on every strategy, and on ``chunked`` in small blocks where it is small enough."""
    problem = problems(array)[number]
    print(problem)
    answer = problem.answer()
    verdicts = [judge(problem, strategy, answer) for strategy in STRATEGIES]
    if small(problem.sizes):
        with small_blocks():
            verdicts.append(Verdict("chunked, small blocks", *_ratios(judge(problem, "chunked", answer))))
    note(request, array, verdicts)
    for verdict in verdicts:
        check(verdict)


def _ratios(verdict: Verdict) -> tuple[float | None, float | None]:
    return verdict.output, verdict.lse


def test_every_strategy_runs_rows_of_its_own() -> None:
    """Each strategy must run a good part of the array that was made for it, or the suite says nothing about it."""
    from tests.contract.refusals import expected

    def runs(array: str, strategy: str) -> int:
        return sum(not expected(problem, strategy) for problem in problems(array))

    assert runs("everything", "reference") == runs("everything", "chunked") == len(problems("everything")) >= 200
    assert runs("fused", "sdpa") >= 20
    assert runs("states", "linear") >= 20


def test_a_problem_is_the_same_twice() -> None:
    first, second = (Problem(problems("everything")[0].sizes, seed=3) for _ in range(2))
    assert all(a.equal(b) for a, b in zip(first.operands, second.operands, strict=True))
