"""What a benchmark file uses: register, time, compare in one process, measure memory, state a bound.

::

    from harness import Bench, benchmark

    @benchmark("decode", "one query against a long cache")
    def decode(bench: Bench) -> None:
        q, k, v = ...
        ways = {"sdpa": lambda: sdpa(q, k, v), "qkv": lambda: qkv.attention(q, k, v)}
        bench.compare(ways, shapes="b=1 h=8 i=1 j=4096 d=64")
        bench.figure("extra memory", peak_extra_bytes(case), "bytes", below=200e6)

The first name given to ``compare`` is what the others are measured against. Knows how to measure; refuses to know what
is measured, and how figures are printed (``report.py``).
"""

from __future__ import annotations

import gc
import importlib
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Thunk = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One measured figure: its median, its spread, and, where they apply, a ratio and a bound."""

    label: str
    shapes: str
    unit: str
    median: float
    low: float
    high: float
    rounds: int
    ratio: float | None = None  # the first label's time divided by this one's: above 1 is faster
    ratio_low: float | None = None
    ratio_high: float | None = None
    below: float | None = None

    @property
    def missed(self) -> bool:
        """Whether the bound is not kept; a figure that is not a number keeps none."""
        return self.below is not None and not self.median < self.below


@dataclass
class Bench:
    """Collects the rows of one benchmark."""

    min_rounds: int = 7
    min_time_s: float = 0.5
    rows: list[Row] = field(default_factory=list)

    def time(self, label: str, run: Thunk, *, shapes: str = "", below: float | None = None) -> None:
        """Time ``run`` alone; ``below`` is the bound in seconds that its median must keep."""
        samples = self._rounds({label: run})[label]
        self.rows.append(Row(label, shapes, "s", *_spread(samples), len(samples), below=below))

    def compare(self, runs: Mapping[str, Thunk], *, shapes: str = "", below: Mapping[str, float] | None = None) -> None:
        """Time several ways in turn, A B A B ..., so that a slower minute slows them all.

        The ratios are those of neighbours in time: the median over the rounds, and their spread.
        """
        samples = self._rounds(runs)
        first = next(iter(runs))
        for label, times in samples.items():
            ratios = [a / b for a, b in zip(samples[first], times, strict=True)]
            extra = () if label == first else _spread(ratios)
            bound = (below or {}).get(label)
            self.rows.append(Row(label, shapes, "s", *_spread(times), len(times), *extra, below=bound))

    def figure(self, label: str, value: float, unit: str, *, shapes: str = "", below: float | None = None) -> None:
        """Record one figure that is not a time, such as a size in bytes."""
        self.rows.append(Row(label, shapes, unit, value, value, value, 1, below=below))

    def _rounds(self, runs: Mapping[str, Thunk]) -> dict[str, list[float]]:
        repeats = {label: _repeats(run) for label, run in runs.items()}
        samples: dict[str, list[float]] = {label: [] for label in runs}
        spent = 0.0
        collecting = gc.isenabled()
        gc.disable()
        try:
            while min(map(len, samples.values())) < self.min_rounds or spent < self.min_time_s:
                for label, run in runs.items():
                    took = _clock(run, repeats[label])
                    samples[label].append(took / repeats[label])
                    spent += took
        finally:
            if collecting:
                gc.enable()
        return samples


@dataclass(frozen=True)
class Benchmark:
    """One registered benchmark."""

    name: str
    about: str
    run: Callable[[Bench], None]


REGISTERED: dict[str, Benchmark] = {}


def benchmark(name: str, about: str) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    """Register the decorated function under ``name``; ``about`` says in a line what it measures."""

    def register(run: Callable[[Bench], None]) -> Callable[[Bench], None]:
        if name in REGISTERED:
            raise ValueError(f"two benchmarks are called {name!r}")
        REGISTERED[name] = Benchmark(name, about, run)
        return run

    return register


def load(folder: Path) -> None:
    """Import every ``bench_*.py`` of ``folder``, which registers what they hold."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    for path in sorted(folder.glob("bench_*.py")):
        importlib.import_module(path.stem)


def peak_extra_bytes(case: Callable[[], Thunk]) -> float:
    """Return by how many bytes the memory of a fresh process grows at most while ``case()()`` runs.

    ``case`` is a function at the top of a benchmark file; it makes the inputs and returns what is measured. Read
    from Linux's high-water mark of resident memory, which is right to about a megabyte; elsewhere the result is NaN,
    which keeps no bound.
    """
    if not Path("/proc/self/clear_refs").exists():
        return math.nan
    # A fresh process: memory freed earlier in this one would be used again and not be counted.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_here, (case,))


def _peak_here(case: Callable[[], Thunk]) -> float:
    run = case()
    gc.collect()
    before = _status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the high-water mark
    run()
    return float(_status_bytes("VmHWM") - before)


def _status_bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def _clock(run: Thunk, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return time.perf_counter() - start


def _repeats(run: Thunk, target_s: float = 0.01) -> int:
    """How often a sample repeats ``run`` so that the clock is not what is measured; the trials also warm it up."""
    repeats = 1
    _clock(run, 1)
    while (took := _clock(run, repeats)) < target_s / 2:
        repeats = max(2 * repeats, min(100 * repeats, int(repeats * target_s / max(took, 1e-9))))
    return repeats


def _spread(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)
