"""Dropped weights from a counter: whether a pair is dropped depends on the seed and the pair's place alone.

So that blocks of any size, the backward and every strategy drop the same pairs, and no mask is stored. The hash is
SplitMix64's finaliser (Steele et al. 2014) over the flat index of the pair among shared, query-only and key
coordinates, in canonical order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from .bind import Bound
    from .scores import Ranges


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN, _FIRST, _SECOND = (_signed(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shift(value: Tensor, bits: int) -> Tensor:
    """A logical shift to the right; torch's shifts of signed integers copy the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def survivors(bound: Bound, ranges: Ranges, dropout: float) -> Tensor:
    """1 / (1 - dropout) for each pair that survives and 0 for each that is dropped, over the axes of a score."""
    import torch

    indices, _ = bound.places.part(ranges)
    flat: Tensor | int = 0
    for name in bound.places.names:
        flat = flat * bound.frame.sizes[name] + indices[name]
    mixed = torch.as_tensor(flat, device=bound.frame.device) * _GOLDEN + _signed(
        (bound.seed * 0xD1342543DE82EF95 + 0x2545F4914F6CDD1D) % (1 << 64)
    )
    mixed = (mixed ^ _shift(mixed, 30)) * _FIRST
    mixed = (mixed ^ _shift(mixed, 27)) * _SECOND
    uniform = _shift(mixed ^ _shift(mixed, 31), 40)
    survive = uniform >= int(dropout * (1 << 24))
    return survive.to(bound.working_dtype) / (1.0 - dropout)


def draw_seed() -> int:
    """A seed from torch's default generator, so that ``torch.manual_seed`` makes dropout repeatable."""
    import torch

    return int(torch.randint(0, 1 << 62, ()).item())
