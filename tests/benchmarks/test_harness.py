"""The benchmark harness: it interleaves, states spreads and bounds, and a missed bound is seen."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import harness
import report
import run


def test_ways_are_timed_in_turn_and_divided_by_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    clock = {"a": iter([4.0, 8.0, 12.0]), "b": iter([2.0, 2.0, 2.0])}

    def take(run: harness.Thunk, repeats: int) -> float:
        name = str(run())
        order.append(name)
        return next(clock[name]) * repeats

    monkeypatch.setattr(harness, "_clock", take)
    monkeypatch.setattr(harness, "_repeats", lambda run: 5)
    bench = harness.Bench(min_rounds=3, min_time_s=0.0)
    bench.compare({"a": lambda: "a", "b": lambda: "b"}, shapes="3 x 4", below={"b": 3.0})
    assert order == ["a", "b"] * 3
    first, second = bench.rows
    assert (first.median, first.low, first.high, first.ratio) == (8.0, 4.0, 12.0, None)
    assert (second.median, second.ratio, second.ratio_low, second.ratio_high) == (2.0, 4.0, 2.0, 6.0)
    assert not second.missed


@pytest.mark.parametrize(("value", "missed"), [(0.9, False), (1.0, True), (math.nan, True)])
def test_a_bound_is_kept_or_missed(value: float, missed: bool) -> None:
    bench = harness.Bench()
    bench.figure("extra", value, "bytes", below=1.0)
    assert bench.rows[0].missed is missed
    assert ("MISSED" in report.table(harness.Benchmark("x", "y", lambda _: None), bench.rows)) is missed


def test_a_short_call_is_repeated_until_the_clock_can_see_it() -> None:
    bench = harness.Bench(min_rounds=3, min_time_s=0.0)
    bench.time("nothing", lambda: None)
    assert 0 < bench.rows[0].median < 1e-4


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.00123, "s", "1.23 ms"),
        (2.5, "s", "2.5 s"),
        (5e-8, "s", "50 ns"),
        (3 * 2**20, "bytes", "3 MiB"),
        (12, "tokens", "12 tokens"),
    ],
)
def test_amounts_are_readable(value: float, unit: str, text: str) -> None:
    assert report.amount(value, unit) == text


def forty_megabytes() -> harness.Thunk:
    return lambda: len(bytes(b"x" * 40_000_000))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets its high-water mark")
def test_memory_is_that_of_the_call() -> None:
    # Linux counts pages in batches, so that the mark may lag by a fraction of a megabyte.
    assert 38e6 <= harness.peak_extra_bytes(forty_megabytes) < 60e6


def test_the_command_prints_the_machine_and_writes_json(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "load", lambda folder: None)
    good = harness.Benchmark("good", "keeps its bound", lambda bench: bench.figure("size", 5, "bytes", below=6))
    bad = harness.Benchmark("bad", "misses its bound", lambda bench: bench.figure("size", 7, "bytes", below=6))
    monkeypatch.setattr(run, "REGISTERED", {"good": good, "bad": bad})
    assert run.main(["--only", "good", "--json", str(tmp_path / "out.json")]) == 0
    printed = capsys.readouterr().out
    assert "cpu " in printed
    assert "torch " in printed
    assert "good: keeps its bound" in printed
    assert "bad" not in printed
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["benchmarks"]["good"][0]["median"] == 5
    assert written["machine"]["cores"] >= 1
    assert run.main([]) == 1
    with pytest.raises(SystemExit) as stopped:
        run.main(["--only", "none"])
    assert stopped.value.code == 2
    assert "there are: good, bad" in capsys.readouterr().err


def test_two_benchmarks_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "REGISTERED", {})
    harness.benchmark("x", "first")(lambda bench: None)
    with pytest.raises(ValueError, match="two benchmarks are called 'x'"):
        harness.benchmark("x", "second")(lambda bench: None)
