"""Runs the benchmarks: ``python benchmarks/run.py [--only NAME ...] [--json FILE] [--list]``.

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
    print(report.heading(about))
    results: dict[str, list[Row]] = {}
    for item in chosen:
        bench = Bench()
        item.run(bench)
        results[item.name] = bench.rows
        print(f"\n{report.table(item, bench.rows)}", flush=True)
    if options.json:
        report.write_json(options.json, about, results)
    return int(any(row.missed for rows in results.values() for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
