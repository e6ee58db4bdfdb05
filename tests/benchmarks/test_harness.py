"""The benchmark harness: it interleaves, states spreads and bounds, and a missed bound is seen."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch

import harness
import others
import report
import rss
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
    monkeypatch.setattr(others.Others, "share", lambda self: 0.0)  # what else this machine does is no matter here
    bench = harness.Bench(min_rounds=3, min_time_s=0.0)
    bench.compare({"a": lambda: "a", "b": lambda: "b"}, shapes="3 x 4", below={"b": 3.0})
    assert order == ["a", "b"] * 3
    first, second = bench.rows
    assert (first.median, first.low, first.high, first.ratio) == (8.0, 4.0, 12.0, None)
    assert (second.median, second.ratio, second.ratio_low, second.ratio_high) == (2.0, 4.0, 2.0, 6.0)
    assert not second.missed


def scripted(monkeypatch: pytest.MonkeyPatch, times: dict[str, list[float]]) -> dict[str, harness.Thunk]:
    """Ways whose times are given beforehand, each called once a round."""
    left = {name: iter(values) for name, values in times.items()}
    monkeypatch.setattr(harness, "_clock", lambda run, repeats: next(left[str(run())]) * repeats)
    monkeypatch.setattr(harness, "_repeats", lambda run: 1)
    monkeypatch.setattr(others.Others, "share", lambda self: 0.0)  # what else this machine does is no matter here
    return {name: lambda name=name: name for name in times}


def test_ratios_are_to_the_fastest_way_of_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = scripted(monkeypatch, {"slow": [9.0, 9.0], "fast": [4.0, 4.0], "ours": [2.0, 1.0]})
    bench = harness.Bench(min_rounds=2, min_time_s=0.0)
    bench.compare(ways, base=("slow", "fast"), at_least={"ours": 3.5})
    slow, fast, ours = bench.rows
    assert (fast.ratio, fast.base) == (None, None)
    assert (slow.ratio, slow.base) == (4 / 9, "fast")
    assert (ours.ratio, ours.ratio_low, ours.ratio_high, ours.base) == (3.0, 2.0, 4.0, "fast")
    assert ours.missed
    assert "MISSED: at least 3.5x of fast" in report.table(harness.Benchmark("x", "y", lambda _: None), bench.rows)


def test_ratios_may_be_of_the_time_for_an_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = scripted(monkeypatch, {"plain": [4.0], "sparse": [2.0]})
    bench = harness.Bench(min_rounds=1, min_time_s=0.0)
    bench.compare(ways, amounts={"plain": 400.0, "sparse": 100.0}, at_least={"sparse": 0.5})
    assert bench.rows[1].ratio == 0.5
    assert not bench.rows[1].missed


@pytest.mark.parametrize(("least", "missed"), [(0.5, False), (0.51, True)])
def test_the_share_is_of_the_best_peak_of_the_rounds(
    monkeypatch: pytest.MonkeyPatch, least: float, missed: bool
) -> None:
    ways = scripted(monkeypatch, {"ours": [2.0, 2.0]})
    peaks = iter([8.0, 10.0])
    work = harness.Work(10.0, "FMA peak", "FLOP", lambda: next(peaks))
    bench = harness.Bench(min_rounds=2, min_time_s=0.0)
    bench.compare(ways, work=work, share_at_least={"ours": least})
    ours, peak = bench.rows
    assert (ours.share, ours.share_of, ours.missed) == (0.5, "FMA peak", missed)
    assert (peak.label, peak.unit, peak.low, peak.high) == ("FMA peak, measured", "FLOP/s", 8.0, 10.0)
    assert (ours.rate, ours.rate_unit) == (5.0, "FLOP/s")
    assert "5 FLOP/s, 50% of FMA peak" in report.table(harness.Benchmark("x", "y", lambda _: None), bench.rows)
    assert not ours.unbound.missed


def test_a_peak_that_varies_is_that_of_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter([8.0, 20.0, 5.0])
    work = harness.Work(10.0, "read bandwidth", "B", lambda: next(peaks), varies=True)
    bench = harness.Bench(min_rounds=3, min_time_s=0.0)
    bench.compare(scripted(monkeypatch, {"ours": [2.0, 1.0, 4.0]}), work=work)
    assert bench.rows[0].share == 0.5  # of 5/8, 10/20 and 2.5/5


def test_a_peak_that_cannot_be_measured_keeps_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = harness.Bench(min_rounds=1, min_time_s=0.0)
    work = harness.Work(10.0, "FMA peak", "FLOP", lambda: math.nan)
    bench.compare(scripted(monkeypatch, {"ours": [2.0]}), work=work, share_at_least={"ours": 0.1})
    assert bench.rows[0].missed


@pytest.mark.parametrize(("took", "rounds"), [(1.0, 7), (2.0, 5)])
def test_of_long_rounds_five_serve(monkeypatch: pytest.MonkeyPatch, took: float, rounds: int) -> None:
    bench = harness.Bench(min_time_s=0.0)
    bench.compare(scripted(monkeypatch, {"a": [took] * 9, "b": [took] * 9}))
    assert [row.rounds for row in bench.rows] == [rounds, rounds]


def test_a_disturbed_round_is_taken_again_and_a_restless_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.5, 0.0, 0.0, 0.0])
    bench = harness.Bench(min_rounds=3, min_time_s=0.0)
    ways = scripted(monkeypatch, {"a": [9.0, 1.0, 1.0, 1.0]})
    monkeypatch.setattr(others.Others, "share", lambda self: next(shares))
    bench.compare(ways)
    assert (bench.rows[0].high, bench.rows[0].others) == (1.0, 0.0)
    ways = scripted(monkeypatch, {"a": [1.0] * 6})
    monkeypatch.setattr(others.Others, "share", lambda self: 0.25)
    bench.compare(ways)
    assert (bench.rows[1].rounds, bench.rows[1].others) == (3, 0.25)
    text = report.table(harness.Benchmark("x", "y", lambda _: None), bench.rows)
    assert text.count("(other work took 25% of the machine)") == 1


def test_other_work_is_what_this_process_did_not_do() -> None:
    counted = others.Others()
    end = counted.own + 0.3
    while others._own_s() < end:
        sum(range(10_000))
    assert 0 <= counted.share() <= 1
    counted.own -= 10.0  # ten seconds of this process's own explain everything
    assert counted.share() == 0.0


def test_ways_that_do_another_task_are_not_compared() -> None:
    ways: dict[str, harness.Thunk] = {"a": lambda: torch.ones(3), "b": lambda: (torch.ones(3) + 0.1,)}
    harness.check_agreement(ways, 0.2, "3")
    with pytest.raises(harness.Disagreement, match=r"3 numbers: b lies 0.1 from a, and 0.01 is allowed"):
        harness.Bench().compare(ways, shapes="3 numbers", agree=0.01)
    ways["b"] = lambda: torch.full((3,), math.nan)
    with pytest.raises(harness.Disagreement, match="b lies nan from a"):
        harness.check_agreement(ways, 0.2, "3")
    ways["b"] = lambda: (torch.ones(3), torch.ones(3))
    with pytest.raises(ValueError, match="argument 2 is longer"):
        harness.check_agreement(ways, 0.2, "3")


def test_figures_taken_elsewhere_get_ratios() -> None:
    bench = harness.Bench()
    bench.ratio({"a": [1.0, 2.0], "b": [2.0, 6.0]}, shapes="", unit="tokens/s", higher_is_better=True)
    bench.ratio({"a": [1.0, 2.0], "b": [2.0, 8.0]}, shapes="", at_least={"b": 0.5})
    assert (bench.rows[1].ratio_low, bench.rows[1].ratio_high) == (2.0, 3.0)
    assert (bench.rows[3].ratio, bench.rows[3].missed) == (0.375, True)


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
        (2e11, "FLOP/s", "200 GFLOP/s"),
        (2.34e10, "B/s", "23.4 GB/s"),
    ],
)
def test_amounts_are_readable(value: float, unit: str, text: str) -> None:
    assert report.amount(value, unit) == text


def forty_megabytes() -> harness.Thunk:
    return lambda: len(bytes(b"x" * 40_000_000))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets its high-water mark")
def test_memory_is_that_of_the_call() -> None:
    # Linux counts pages in batches, so that the mark may lag by a fraction of a megabyte.
    assert 38e6 <= rss.peak_extra_bytes(forty_megabytes) < 60e6


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
    assert written["not measured"] == {}
    assert re.search(r"FMA peak +[\d.]+ [GT]FLOP/s\nread bandwidth [\d.]+ GB/s", printed)
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
