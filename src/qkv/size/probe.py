"""A short measurement of this machine: the peak of products in float32 and bf16, and the bandwidth of reading.

Knows two loops and a clock, for about a second in all. Refuses to know models. The compiled core measures; where it is
not built torch does, and the source of the figures says which. It asks torch how many threads there are, and nothing
else of the room loads torch.
"""

from __future__ import annotations

import functools
import os
import platform
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from .. import core
from .hardware import Hardware

_SIDES = (256, 512, 1024)
_ENOUGH_S = 0.2
"""A product that takes so long is the last: a larger one would take eight times as long."""
_READ_BYTES = 1 << 28
"""Far beyond any cache of a desktop; servers with larger ones read a share of it from there."""
_TRIALS = 6


def probe() -> Hardware:
    """This machine as a ``Hardware``: rates measured once in a process, of multiply-adds (by torch: of
    products of matrices) and of reading 256 MiB. The memory is what the system says, 0 where it does not.
    """
    return _probe(_threads())


def _threads() -> int:
    import torch

    return torch.get_num_threads()


@lru_cache(maxsize=8)
def _probe(num_threads: int) -> Hardware:
    if core.is_built():
        return _by_core(num_threads)
    return _by_torch(num_threads)


def _by_core(num_threads: int) -> Hardware:
    rates = {
        short: core.probe_fma_flops(num_threads, name) for short, name in (("f32", "float32"), ("bf16", "bfloat16"))
    }
    about = f"measured here: the compiled core, {num_threads} threads, {platform.machine()}"
    return Hardware(
        "this", rates, core.probe_read_bandwidth(num_threads, _READ_BYTES), _memory_bytes(), about, measured=True
    )


def _by_torch(num_threads: int) -> Hardware:
    import torch

    rates = {"f32": _product_rate(torch.float32), "bf16": _product_rate(torch.bfloat16)}
    data = torch.ones(_READ_BYTES // 4)
    bandwidth = _READ_BYTES / _best_s(data.sum)
    about = f"measured here: torch {torch.__version__}, {num_threads} threads, {platform.machine()}"
    return Hardware("this", rates, bandwidth, _memory_bytes(), about, measured=True)


def _product_rate(dtype: Any) -> float:
    """Operations each second in products of square matrices: the best of all sizes, for a small one is easily disturbed
    and a large one takes seconds where the machine does not multiply the type.
    """
    import torch

    best = 0.0
    for side in _SIDES:
        left, right = (torch.ones(side, side, dtype=dtype) for _ in range(2))
        out = torch.empty(side, side, dtype=dtype)
        took = _best_s(functools.partial(torch.mm, left, right, out=out))
        best = max(best, 2 * side**3 / took)
        if took >= _ENOUGH_S:
            break
    return best


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
