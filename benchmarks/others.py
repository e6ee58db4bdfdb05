"""What other work took of the machine meanwhile, so that a figure taken beside a compiler is known for one.

Knows Linux's count of busy processor time. Refuses to know what is measured.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
_IDLE = (3, 4)  # idle, and waiting for a disk


class Others:
    """Counts from where it is made: ``share()`` is the part of all processors that was busy, less this process.

    0 where the system does not tell. The system counts in hundredths of a second, so that a span below some tenths
    says little.
    """

    def __init__(self) -> None:
        self.busy, self.own, self.wall = _busy_s(), _own_s(), time.perf_counter()

    def share(self) -> float:
        """Between 0 and 1."""
        busy, own, wall = _busy_s() - self.busy, _own_s() - self.own, time.perf_counter() - self.wall
        return min(1.0, max(0.0, (busy - own) / (wall * (os.cpu_count() or 1)))) if wall > 0 else 0.0


def _busy_s() -> float:
    if not _STAT.exists():
        return 0.0
    fields = [int(x) for x in _STAT.read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    return sum(x for n, x in enumerate(fields) if n not in _IDLE) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    took = os.times()
    return took.user + took.system + took.children_user + took.children_system
