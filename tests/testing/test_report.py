"""The table that a report prints, line by line."""

from __future__ import annotations

from qkv.testing import Finding, NotRun, Report

INF = float("inf")
FINDINGS = (
    Finding("dead rows", "row 1", INF, "a row is nan", "x = 1\ny = 2"),
    Finding("outside the bound", "row 1", 3.25, "off", "z"),
    Finding("outside the bound", "row 2", 12.5, "more off", "z"),
)
TABLE = """\
mine: 7 checks passed, 2 failed, 3 not run (seed 4)

  what breaks        checks  worst error / tolerance
  outside the bound       2  12.5
  dead rows               1  no error allowed

dead rows: a row is nan
    x = 1
    y = 2

not run: 2 checks, supports lacks mask (the first: row 5)
not run: 1 checks, supports lacks gqa (the first: row 7)"""


def test_table() -> None:
    left_out = (
        NotRun("row 5", "supports lacks mask"),
        NotRun("row 6", "supports lacks mask"),
        NotRun("row 7", "supports lacks gqa"),
    )
    report = Report("mine", 4, 7, FINDINGS, left_out, FINDINGS[:1])
    assert str(report) == TABLE
    assert report.kinds == ("outside the bound", "dead rows")
    assert [finding.ratio for finding in report.of_kind("outside the bound")] == [12.5, 3.25]


def test_ok_needs_something_that_was_run() -> None:
    assert Report("mine", 0, 1, (), ()).ok
    assert not Report("mine", 0, 0, (), ()).ok
    assert not Report("mine", 0, 1, FINDINGS, ()).ok
