"""By how much the memory of a process grows while something runs. Refuses to know times."""

from __future__ import annotations

import gc
import math
import multiprocessing
from collections.abc import Callable
from pathlib import Path

Thunk = Callable[[], object]


def peak_extra_bytes(case: Callable[[], Thunk]) -> float:
    """Return by how many bytes the memory of a fresh process grows at most while ``case()()`` runs.

    ``case`` is a function at the top of a benchmark file, or a ``functools.partial`` of one; it makes the inputs and
    returns what is measured. Read from Linux's high-water mark of resident memory, which is right to about a megabyte;
    elsewhere the result is NaN, which keeps no bound.
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
