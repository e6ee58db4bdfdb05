"""Runs the benchmarks: ``python benchmarks/run.py [--only NAME ...] [--shapes TEXT] [--json FILE] [--list]``.

Prints the machine, then for each benchmark the median, the spread and the ratios measured in this one process.
The exit status is 1 when a stated bound is missed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import report
from harness import REGISTERED, Bench, Row, load


def main(arguments: list[str]) -> int:
    """Run what ``arguments`` ask for; return the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks/run.py", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument(
        "--only", metavar="NAME", action="append", default=[], help="run this benchmark; may be repeated"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write every figure to FILE")
    parser.add_argument("--shapes", metavar="TEXT", default="", help="only what has TEXT in its line of shapes")
    parser.add_argument("--strategy", metavar="NAME", default="cpu", help="qkv's side (default: cpu)")
    parser.add_argument("--rounds", metavar="N", type=int, default=7, help="at least N rounds (default: 7)")
    parser.add_argument(
        "--plot", metavar="FILE", type=Path, default=Path("build/lengths.png"), help="where `lengths` draws its curves"
    )
    parser.add_argument("--small", action="store_true", help="tiny lengths: shows that all code runs, measures nothing")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and stop")
    options = parser.parse_args(arguments)

    load(Path(__file__).parent)
    if unknown := [name for name in options.only if name not in REGISTERED]:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are: {', '.join(REGISTERED)}")
    chosen = [REGISTERED[name] for name in options.only] or list(REGISTERED.values())
    if options.list:
        print("\n".join(f"{item.name:24} {item.about}" for item in chosen))
        return 0

    about = report.machine()
    print(report.heading(about), flush=True)
    if options.rounds < 5 or options.small:
        print("a quick look: too few rounds or too small sizes for figures that are told to others")
    results: dict[str, list[Row]] = {}
    notes: dict[str, list[str]] = {}
    for item in chosen:
        bench = Bench(
            min_rounds=options.rounds,
            min_time_s=0.0 if options.small else 0.5,
            strategy=options.strategy,
            only_shapes=options.shapes,
            small=options.small,
            plot=options.plot,
        )
        print(f"measuring {item.name} ...", file=sys.stderr, flush=True)
        item.run(bench)
        rows = [row.unbound for row in bench.rows] if options.small else bench.rows
        results[item.name], notes[item.name] = rows, bench.notes
        print(f"\n{report.table(item, rows, bench.notes)}", flush=True)
        for path in bench.drawn:
            print(f"  drawn: {path}")
        if options.json:  # after each, so that a long run that is stopped leaves what it found
            report.write_json(options.json, about, results, notes)
    return int(any(row.missed for rows in results.values() for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
