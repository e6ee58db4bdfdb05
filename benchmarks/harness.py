"""What a benchmark file uses: register, time, compare in one process, state a goal.

::

    from harness import Bench, benchmark

    @benchmark("decode", "one query against a long cache")
    def decode(bench: Bench) -> None:
        q, k, v = ...
        ways = {"sdpa": lambda: sdpa(q, k, v), "qkv": lambda: qkv.attention(q, k, v)}
        bench.compare(ways, shapes="b=1 h=8 i=1 j=4096 d=64", at_least={"qkv": 2.0}, agree=1e-4)

The first name given to ``compare`` is what the others are measured against, or the fastest of those named in ``base``.
Knows how to measure; refuses to know what is measured, and how figures are printed (``report.py``).
"""

from __future__ import annotations

import gc
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from others import Others
from rows import Row as Row
from rows import Work as Work
from rows import spread as spread

Thunk = Callable[[], object]

DISTURBED = 0.05
"""A round in which other work took more of the machine than this is taken again."""

LONG_ROUND_S = 3.0
"""Of rounds as long as this ``LONG_ROUNDS`` serve."""

LONG_ROUNDS = 5


class Disagreement(RuntimeError):
    """Two ways that should do the same task gave different results, so their times mean nothing together."""


@dataclass
class Bench:
    """Collects the rows of one benchmark.

    ``strategy`` is qkv's side; ``only_shapes`` leaves out what does not contain the text; ``small`` shrinks every
    length so that all code runs in seconds and no figure means anything.
    """

    min_rounds: int = 7
    min_time_s: float = 0.5
    strategy: str = "cpu"
    only_shapes: str = ""
    small: bool = False
    plot: Path | None = None
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)

    def length(self, wanted: int, least: int = 64) -> int:
        """The length to measure at."""
        return least if self.small else wanted

    def skips(self, shapes: str) -> bool:
        """Whether the person asked for other shapes."""
        return self.only_shapes not in shapes

    def note(self, text: str) -> None:
        """Say once what is not measured, and why."""
        if text not in self.notes:
            self.notes.append(text)

    def time(self, label: str, run: Thunk, *, shapes: str = "", below: float | None = None) -> None:
        """Time ``run`` alone; ``below`` is the bound in seconds that its median must keep."""
        samples, others = self._rounds({label: run})
        self.rows.append(
            Row(label, shapes, "s", *spread(samples[label]), len(samples[label]), below=below, others=others)
        )

    def compare(
        self,
        runs: Mapping[str, Thunk],
        *,
        shapes: str = "",
        base: Sequence[str] = (),
        below: Mapping[str, float] | None = None,
        at_least: Mapping[str, float] | None = None,
        amounts: Mapping[str, float] | None = None,
        work: Work | None = None,
        share_at_least: Mapping[str, float] | None = None,
        agree: float | None = None,
    ) -> None:
        """Time several ways in turn, A B A B ..., so that a slower minute slows them all.

        The ratios are those of neighbours in time: the median over the rounds, and their spread; of the time for each
        of ``amounts`` where ways do different amounts of work. They are to the fastest way of ``base``, or to the
        first.
        ``work`` is what each way does at least: its peak is measured in each round.
        ``agree`` is how far a result may lie from the first way's, relative to its largest value; it shows that the
        same task was done, and nothing of precision. Raises ``Disagreement``.
        """
        if not runs:
            return
        if agree is not None:
            check_agreement(runs, agree, shapes)
        samples, others = self._rounds(runs, work)
        peaks = samples.pop("", [])
        middle = {label: statistics.median(times) for label, times in samples.items()}
        first = min((label for label in base if label in middle), key=lambda n: middle[n], default=next(iter(samples)))
        amount = dict.fromkeys(samples, 1.0) | dict(amounts or {})
        for label, times in samples.items():
            ratios = [(a / amount[first]) / (b / amount[label]) for a, b in zip(samples[first], times, strict=True)]
            extra = (None,) * 3 if label == first else spread(ratios)
            self.rows.append(
                Row(
                    label,
                    shapes,
                    "s",
                    *spread(times),
                    len(times),
                    *extra,
                    below=(below or {}).get(label),
                    base=None if label == first else first,
                    at_least=(at_least or {}).get(label),
                    rate=work.amount / middle[label] if work else None,
                    rate_unit=f"{work.unit}/s" if work else "",
                    share=work.share(times, peaks) if work and peaks else None,
                    share_of=work.of if work and peaks else None,
                    share_at_least=(share_at_least or {}).get(label) if work and peaks else None,
                    others=others,
                )
            )
        if work and peaks:
            self.rows.append(Row(f"{work.of}, measured", shapes, f"{work.unit}/s", *spread(peaks), len(peaks)))

    def ratio(
        self,
        samples: Mapping[str, list[float]],
        *,
        shapes: str,
        unit: str = "s",
        at_least: Mapping[str, float] | None = None,
        higher_is_better: bool = False,
        others: float = 0.0,
    ) -> None:
        """Record figures that somebody else took in rounds, with the ratios to the first of them."""
        first = next(iter(samples))
        for label, values in samples.items():
            pairs = zip(samples[first], values, strict=True)
            ratios = [b / a if higher_is_better else a / b for a, b in pairs]
            extra = (None,) * 3 if label == first else spread(ratios)
            self.rows.append(
                Row(
                    label,
                    shapes,
                    unit,
                    *spread(values),
                    len(values),
                    *extra,
                    base=None if label == first else first,
                    at_least=(at_least or {}).get(label),
                    others=others,
                )
            )

    def figure(self, label: str, value: float, unit: str, *, shapes: str = "", below: float | None = None) -> None:
        """Record one figure that is not a time, such as a size in bytes."""
        self.rows.append(Row(label, shapes, unit, value, value, value, 1, below=below))

    def _rounds(self, runs: Mapping[str, Thunk], work: Work | None = None) -> tuple[dict[str, list[float]], float]:
        """The times of each way in the rounds that count, the peaks under ``""``, and what other work took."""
        repeats = {label: _repeats(run) for label, run in runs.items()}
        taken: list[tuple[float, dict[str, float]]] = []
        spent, wanted, spare = 0.0, self.min_rounds, self.min_rounds
        collecting = gc.isenabled()
        gc.disable()
        try:
            while len(taken) < wanted or spent < self.min_time_s:
                others, times, took = Others(), dict[str, float](), 0.0
                for label, run in runs.items():
                    took_here = _clock(run, repeats[label])
                    times[label] = took_here / repeats[label]
                    took += took_here
                if work is not None:
                    times[""] = work.peak()
                disturbed = others.share()
                spent += took
                if took > LONG_ROUND_S:
                    wanted = min(wanted, LONG_ROUNDS)
                # Too short a round cannot tell; and a machine that never rests still gets its figures, marked.
                if disturbed > DISTURBED and took > 0.2 and spare > 0:
                    spare -= 1
                    continue
                taken.append((disturbed, times))
        finally:
            if collecting:
                gc.enable()
        labels = [*runs, *([""] if work is not None else [])]
        return {n: [t[n] for _, t in taken] for n in labels}, statistics.fmean(share for share, _ in taken)


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


def check_agreement(runs: Mapping[str, Thunk], bound: float, shapes: str) -> None:
    """Run each way once; ``Disagreement`` when a tensor lies farther from the first way's than ``bound`` allows."""
    label, first = "", list[torch.Tensor]()
    for name, run in runs.items():
        found = _tensors(run())
        if not label:
            label, first = name, found
            continue
        for a, b in zip(first, found, strict=True):
            far = float((a.double() - b.double()).abs().max() / a.double().abs().max())
            if not far <= bound:
                raise Disagreement(f"{shapes}: {name} lies {far:.2g} from {label}, and {bound:.2g} is allowed")


def _tensors(result: object) -> list[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        return [result.detach()]
    return [x.detach() for x in result if isinstance(x, torch.Tensor)] if isinstance(result, tuple | list) else []


def _clock(run: Thunk, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return time.perf_counter() - start


def _repeats(run: Thunk, target_s: float = 0.01) -> int:
    """How often a sample repeats ``run`` so that the clock is not what is measured; the trials also warm it up."""
    repeats = 1
    if _clock(run, 1) > 50 * target_s:
        return 1
    while (took := _clock(run, repeats)) < target_s / 2:
        repeats = max(2 * repeats, min(100 * repeats, int(repeats * target_s / max(took, 1e-9))))
    return repeats
