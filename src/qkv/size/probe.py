"""A short measurement of this machine: the peak of products in float32 and bf16, and the bandwidth of reading.

Knows two loops and a clock, for less than a second in all. Refuses to know models. It uses torch where a probe is asked
for, and nothing else of the room does.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from functools import lru_cache

from .hardware import Hardware

_SIDE = 1024
_READ_BYTES = 1 << 28
"""Far beyond any cache of a desktop; servers with larger ones read a share of it from there."""
_TRIALS = 4


def probe() -> Hardware:
    """This machine as a ``Hardware``: rates measured once in a process, by torch's products of 1024 x 1024 and by
    reading 256 MiB; the best of four trials each. The memory is what the system says, 0 where it does not.
    """
    return _probe(_threads())


def _threads() -> int:
    import torch

    return torch.get_num_threads()


@lru_cache(maxsize=8)
def _probe(num_threads: int) -> Hardware:
    import torch

    rates: dict[str, float] = {}
    for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        left, right = (torch.ones(_SIDE, _SIDE, dtype=dtype) for _ in range(2))
        out = torch.empty(_SIDE, _SIDE, dtype=dtype)
        rates[name] = 2 * _SIDE**3 / _best_s(lambda a=left, b=right, c=out: torch.mm(a, b, out=c))
    data = torch.ones(_READ_BYTES // 4)
    bandwidth = _READ_BYTES / _best_s(data.sum)
    about = f"measured here: torch {torch.__version__}, {num_threads} threads, {platform.machine()}"
    return Hardware("this", rates, bandwidth, _memory_bytes(), about, measured=True)


def _best_s(run: Callable[[], object]) -> float:
    """Seconds of the fastest trial after one that warms up: what disturbs only adds."""
    run()
    best = float("inf")
    for _ in range(_TRIALS):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
