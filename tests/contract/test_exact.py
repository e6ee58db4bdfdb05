"""The exact families over every keep term: no tolerance. A ramp shows every key too many or too few at a mask's border,
equal weights show it anywhere.
"""

from __future__ import annotations

import pytest
import torch

from qkv.testing import Sizes
from tests.conftest import SEED
from tests.contract.blocking import small_blocks
from tests.contract.judge import check, compare
from tests.contract.keeps import KEEPS
from tests.contract.problem import Problem

RAMPS = ("ramp up", "ramp down")
LENGTHS = ((17, 33), (33, 17), (64, 64), (1, 65), (10, 24), (16, 8), (127, 129))


def _problem(keep: str, family: str, queries: int, keys: int, seed: int, dtype: torch.dtype = torch.float32) -> Problem:
    sizes = Sizes(batch=2, query_heads=4, key_heads=2, query_length=queries, key_length=keys, feature_size=32)
    return Problem(sizes, keep=keep, family=family, dtype=dtype, seed=SEED + seed)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16, torch.float64), ids=str)
@pytest.mark.parametrize("family", (*RAMPS, "dyadic"))
@pytest.mark.parametrize("keep", KEEPS)
def test_exact(keep: str, family: str, dtype: torch.dtype) -> None:
    """Bit for bit on ``reference``, on ``cpu`` and on ``chunked`` in large blocks, small ones, single rows and keys."""
    # masks do not depend on the dtype; the other two are here for their arithmetic
    lengths = LENGTHS if dtype in (torch.float32, torch.bfloat16) else LENGTHS[:3]
    for number, (queries, keys) in enumerate(lengths):
        problem = _problem(keep, family, queries, keys, number, dtype)
        print(problem)
        case, answer = problem.case, problem.answer()
        assert case.exact is not None
        if family in RAMPS:
            assert bool(case.exact.all()), "a ramp is known everywhere"
        check(compare(problem, "reference", problem.run("reference"), answer))
        check(compare(problem, "chunked", problem.run("chunked"), answer))
        check(compare(problem, "cpu", problem.run("cpu"), answer))
        blockings = ((4, 4), (16, 5)) if queries < 100 else ((16, 32),)
        for rows, length in blockings:
            with small_blocks(rows, length):
                check(compare(problem, "chunked", problem.run("chunked"), answer))


@pytest.mark.parametrize("keep", KEEPS)
def test_dyadic_rows_are_met(keep: str) -> None:
    """Every mask leaves rows whose count is a power of two, so that the dyadic family says something about it."""
    rows = 0
    for number, (queries, keys) in enumerate(LENGTHS):
        problem = _problem(keep, "dyadic", queries, keys, number)
        assert problem.case.exact is not None
        alive = torch.ones(()).bool() if problem.mask is None else problem.mask.any(-1)
        rows += int((problem.case.exact & alive).sum())
    assert rows >= 20, rows


@pytest.mark.parametrize("rows,keys", ((1, 1), (1, 3), (3, 1)))
@pytest.mark.parametrize("keep", KEEPS)
def test_single_rows_and_keys(keep: str, rows: int, keys: int) -> None:
    """Blocks of one row or one key: every element of the mask is a border once."""
    sizes = Sizes(batch=1, query_heads=2, key_heads=1, query_length=9, key_length=11, feature_size=8)
    for family in (*RAMPS, "dyadic"):
        problem = Problem(sizes, keep=keep, family=family, seed=SEED)
        with small_blocks(rows, keys):
            check(compare(problem, "chunked", problem.run("chunked"), problem.answer()))


def test_the_check_can_fail() -> None:
    """One key too many at the border is seen at zero tolerance."""
    problem = Problem(Sizes(query_length=17, key_length=17, feature_size=32), keep="causal", family="ramp up")
    wrong = Problem(problem.sizes, keep="neighbours", family="ramp up")
    verdict = compare(problem, "reference", problem.run("reference"), problem.answer())
    assert verdict.output == 0
    verdict = compare(problem, "reference", wrong.run("reference"), problem.answer())
    assert verdict.output == float("inf")
