"""Every target that this machine has meets the suite: the covering array by rows of its own, gradients of every term,
keys that must not be seen. The target in use by itself meets all of the suite.
"""

from __future__ import annotations

import pytest
import torch

from qkv.core import cpu_targets, using_cpu_target
from tests.contract.judge import check, judge
from tests.contract.keeps import KEEPS
from tests.contract.rows import problems
from tests.contract.tally import note
from tests.contract.test_gradients import TERMS
from tests.contract.test_gradients import test_definition as definition
from tests.contract.test_poison import MASKED
from tests.contract.test_poison import test_a_key_that_some_rows_keep as partial_poison
from tests.contract.test_poison import test_masks as poisoned_masks

TARGETS = cpu_targets()
PARTS = 8

each_target = pytest.mark.parametrize("target", TARGETS)


@pytest.mark.parametrize("part", range(PARTS))
@each_target
def test_covering_array(target: str, part: int, request: pytest.FixtureRequest) -> None:
    rows = problems("everything")
    assert len(rows) >= 200
    with using_cpu_target(target):
        verdicts = [judge(problem, "cpu", problem.answer()) for problem in rows[part::PARTS]]
    note(request, target, verdicts)
    for verdict, problem in zip(verdicts, rows[part::PARTS], strict=True):
        print(problem)
        check(verdict)


@pytest.mark.parametrize("parts", TERMS, ids=lambda parts: "-".join(parts.values()))
@each_target
def test_gradients(target: str, parts: dict[str, str]) -> None:
    with using_cpu_target(target):
        definition(parts, "cpu")


@pytest.mark.parametrize("keep", KEEPS)
@each_target
def test_poison(target: str, keep: str) -> None:
    if keep not in MASKED:
        assert keep == "full"
        return
    with using_cpu_target(target):
        poisoned_masks(keep, torch.float32, "cpu")
        partial_poison(keep, "cpu")
