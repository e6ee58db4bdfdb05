"""Says on what was measured, and prints rows as text or JSON. Refuses to measure."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from harness import DISTURBED, Benchmark, Row
from peaks import bandwidth, flops

UNITS = {
    "FLOP/s": [(1e12, "TFLOP/s"), (1e9, "GFLOP/s")],
    "B/s": [(1e9, "GB/s")],
    "s": [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")],
    "bytes": [(2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")],
}


def machine() -> dict[str, Any]:
    """Return what a figure depends on: processor, cores, features, threads, versions, revision."""
    try:
        from qkv.core import compiler, cpu_features

        features = [name for name, usable in cpu_features().items() if usable]
        core = compiler()
    except ImportError:
        features, core = [], "not built"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    packages = ("qkv", "torch", "transformers", "numpy")
    return {
        "cpu": _cpu_model(),
        "cores": cores,
        "features": features,
        "threads": torch.get_num_threads(),
        "gpu": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
        "compiled core": core,
        "FMA peak": amount(flops("float32"), "FLOP/s"),
        "read bandwidth": amount(bandwidth(1 << 28), "B/s") + " (256 MiB)",
        "revision": _revision(),
    }


def machine_line() -> str:
    """Return the machine in one line, as a picture has room for."""
    return f"{_cpu_model()}, {torch.get_num_threads()} threads, torch {_version('torch')}, qkv {_revision()}"


def heading(about: dict[str, Any]) -> str:
    """Return the lines above all figures."""
    lines: list[str] = []
    for key, value in about.items():
        shown = value
        if isinstance(value, dict):
            shown = ", ".join(f"{name} {version}" for name, version in value.items())
        elif isinstance(value, list):
            shown = " ".join(map(str, value)) or "none"
        lines.append(f"{key:14} {shown}")
    return "\n".join(lines)


def table(benchmark: Benchmark, rows: list[Row], notes: Sequence[str] = ()) -> str:
    """Return one benchmark as text: median, [lowest .. highest], ratio, share of the peak, bounds, what is missing."""
    lines = [f"{benchmark.name}: {benchmark.about}"]
    shapes = ""
    for row in rows:
        if row.shapes != shapes:
            lines.append(f"  {row.shapes}")
            shapes = row.shapes
        text = f"    {row.label:36} {amount(row.median, row.unit):>10}"
        if row.rounds > 1:
            text += f"  [{amount(row.low, row.unit)} .. {amount(row.high, row.unit)}]"
        if row.ratio is not None:
            text += f"  {row.ratio:.2f}x [{row.ratio_low:.2f} .. {row.ratio_high:.2f}]"
        if row.share is not None:
            text += f"  {amount(row.rate or math.nan, row.rate_unit)}, {row.share:.0%} of {row.share_of}"
        if bounds := _bounds(row):
            text += f"  {'MISSED' if row.missed else 'kept'}: {', '.join(bounds)}"
        if row.others > DISTURBED:
            text += f"  (other work took {row.others:.0%} of the machine)"
        lines.append(text)
    lines += [f"  not measured: {note}" for note in notes]
    return "\n".join(lines)


def _bounds(row: Row) -> list[str]:
    bounds: list[str] = []
    if row.below is not None:
        bounds.append(f"below {amount(row.below, row.unit)}")
    if row.at_least is not None:
        bounds.append(f"at least {row.at_least:.3g}x of {row.base}")
    if row.share_at_least is not None:
        bounds.append(f"at least {row.share_at_least:.0%}")
    return bounds


def write_json(
    path: Path, about: dict[str, Any], results: dict[str, list[Row]], notes: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Write machine, rows and what was not measured to ``path``."""
    rows = {name: [{**vars(row), "missed": row.missed} for row in found] for name, found in results.items()}
    whole = {"machine": about, "benchmarks": rows, "not measured": {n: list(x) for n, x in (notes or {}).items() if x}}
    path.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


def amount(value: float, unit: str) -> str:
    """Return a figure with three digits in a unit that a person reads: ``1.23 ms``."""
    for size, name in UNITS.get(unit, []):
        if abs(value) >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:.3g} {unit}"


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _revision() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"
