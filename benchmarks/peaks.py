"""What the machine reaches with as many threads as torch uses, and what attention has to do at least.

Knows flops and bytes of a call; refuses to know a strategy. Without the compiled core nothing is measured: NaN.
"""

from __future__ import annotations

import math

import torch

from harness import Work


def flops(dtype: str = "float32") -> float:
    """Floating-point operations in a second."""
    try:
        from qkv.core import probe_fma_flops

        return probe_fma_flops(torch.get_num_threads(), dtype)
    except ImportError:
        return math.nan


def bandwidth(num_bytes: int) -> float:
    """Bytes in a second from an array of ``num_bytes`` that is read again and again."""
    try:
        from qkv.core import probe_read_bandwidth

        return probe_read_bandwidth(torch.get_num_threads(), num_bytes)
    except ImportError:
        return math.nan


def products(dtype: torch.dtype, pairs: float, features: int, passes: float = 1.0) -> Work:
    """Both products of attention for ``pairs`` pairs of query and key over all heads, ``passes`` times.

    A backward that makes the scores again is five products to the forward's two: 3.5 passes with the forward.
    """
    name = str(dtype).removeprefix("torch.")
    name = name if name in ("float32", "float64", "bfloat16") else "float32"
    return Work(4.0 * pairs * features * passes, "FMA peak", "FLOP", lambda: flops(name))


def reading(*tensors: torch.Tensor) -> Work:
    """Every byte of ``tensors`` once, from memory or from the cache that holds them."""
    total = sum(x.numel() * x.element_size() for x in tensors)
    return Work(float(total), "read bandwidth", "B", lambda: bandwidth(total), varies=True)


def causal_pairs(length: int) -> float:
    """Pairs that a causal mask keeps of ``length`` queries and keys."""
    return length * (length + 1) / 2
