"""What a call costs: floating point operations, bytes moved and bytes of scratch, and a time to compare strategies by.

The model is coarse on purpose: it ranks strategies and is printed with the plan, and promises no seconds. FLOPs count a
multiply and an add as two and are those of all pairs, kept or not, unless a strategy skips dropped blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from .request import Request

CALL_S = 20e-6
FLOPS_PER_S = 5e10
BYTES_PER_S = 1e10


@dataclass(frozen=True, slots=True)
class Cost:
    """The price of one forward call."""

    flops: int
    bytes: int
    scratch_bytes: int
    seconds: float


def dense_flops(request: Request) -> int:
    """Both products over all pairs: ``2 * pairs * (feature size + value size)``."""
    return 2 * request.pairs * (request.feature_size + request.value_size)


def tensor_bytes(request: Request) -> int:
    """q, k, v and the output, each moved once."""
    rows, keys = request.num_shared * request.num_rows, request.num_shared * request.num_keys
    return (rows + keys) * (request.feature_size + request.value_size) * request.element_bytes


def price(
    flops: float, moved_bytes: float, scratch_bytes: float, *, efficiency: float = 1.0, calls: float = 1.0
) -> Cost:
    """A cost whose time is the larger of compute and memory time, plus a price for each call into torch."""
    seconds = max(flops / (FLOPS_PER_S * efficiency), (moved_bytes + 2 * scratch_bytes) / BYTES_PER_S) + calls * CALL_S
    return Cost(int(flops), int(moved_bytes), int(scratch_bytes), seconds)
