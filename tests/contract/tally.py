"""What the suite ran, summed over all workers into lines of the test report: nothing is left out without being
counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from tests.contract.judge import Verdict

NAME = "contract"


def note(request: pytest.FixtureRequest, array: str, verdicts: Iterable[Verdict]) -> None:
    """Attaches what a test found to its report."""
    for verdict in verdicts:
        request.node.user_properties.append((NAME, [array, verdict.strategy, verdict.output, verdict.lse]))


def lines(properties: Iterable[tuple[str, Any]]) -> list[str]:
    """One line for each array and strategy: how many problems were run, how many refused, and the worst ratios seen."""
    found: dict[tuple[str, str], list[tuple[float | None, float | None]]] = {}
    for name, value in properties:
        if name == NAME:
            array, strategy, output, lse = value
            found.setdefault((array, strategy), []).append((output, lse))
    made: list[str] = []
    for (array, strategy), verdicts in sorted(found.items()):
        outputs = [output for output, _ in verdicts if output is not None]
        lses = [lse for _, lse in verdicts if lse is not None]
        text = f"{array:12} {strategy:20} {len(outputs):4} run, {len(verdicts) - len(outputs):4} refused as documented"
        text += f", worst output {max(outputs):.3f} of its bound" if outputs else ""
        made.append(text + (f", worst lse {max(lses):.3f}" if lses else ""))
    return made


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints the lines after the tests."""
    reports = [
        report for found in terminalreporter.stats.values() for report in found if hasattr(report, "user_properties")
    ]
    made = lines(p for report in reports if getattr(report, "when", "") == "call" for p in report.user_properties)
    if made:
        terminalreporter.section("contract suite")
        for line in made:
            terminalreporter.line(line)
