"""Numbers as small integers with a scale for each row of features: what quantized caches hold.

``x ~ scale * code`` with codes in [-127, 127] (8 bits) or [-7, 7] (4 bits). The scale has at most 16 significant bits,
so that the product with a code is exact in float32, and ``|x - scale * code| <= scale / 2`` holds exactly. A row with
an element that is not finite has the scale NaN and codes 0: the row is NaN, and no other one is touched.

Codes of 4 bits lie two in a byte, plus 8: in each run of 32 features, byte n holds feature n in its low half and
feature n + 16 in its high half. The feature axis is padded to a multiple of 32 with zeros.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

RUN = 32
"""Features that are packed together at 4 bits."""

BITS = (8, 4)

LARGEST = (2.0 - 2.0**-23) * 2.0**127
"""The largest float32; rows of larger numbers count as not finite."""


def width(size: int, bits: int | None) -> int:
    """How many elements a row of ``size`` features takes in storage."""
    return size if bits != 4 else (size + RUN - 1) // RUN * (RUN // 2)


def encode(x: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Codes ``[..., width]`` (int8; uint8 for two in a byte) and float32 scales ``[...]`` of ``x [..., feature]``."""
    import torch

    most = 127 if bits == 8 else 7
    wide = x if x.dtype == torch.float64 else x.float()
    size = wide.abs().amax(-1) if wide.shape[-1] else wide.new_zeros(wide.shape[:-1])
    scale = _rounded_up((size / most).float())
    sound = size <= LARGEST
    # the largest number is no multiple: one step less, whose product with the largest code is a number still
    scale = torch.where(size == 0, 0.0, scale.clamp(max=_rounded_down(LARGEST / most)))
    scale = torch.where(sound, scale, torch.nan)
    step = torch.where(sound & (scale > 0), scale, 1.0).to(wide.dtype).unsqueeze(-1)
    wide = torch.where(sound.unsqueeze(-1), wide, 0.0)
    codes = torch.round(wide / step)
    # the quotient is rounded, the rest is exact: it says which neighbour is nearest
    rest = wide - codes * step
    codes = codes + (rest > step / 2).to(wide.dtype) - (rest < -step / 2).to(wide.dtype)
    codes = codes.clamp(-most, most)
    return _packed(codes.to(torch.int8)) if bits == 4 else codes.to(torch.int8), scale


def decode(codes: Tensor, scale: Tensor, bits: int, size: int, dtype: torch.dtype) -> Tensor:
    """The numbers ``[..., size]`` that codes and scales stand for; ``dtype`` is float32 or float64."""
    plain = _unpacked(codes, size) if bits == 4 else codes
    return plain.to(dtype) * scale.to(dtype).unsqueeze(-1)


def _rounded_down(x: float) -> float:
    """The largest number of 16 significant bits that is not above ``x``."""
    share, power = math.frexp(x)
    return math.ldexp(math.floor(share * (1 << 16)), power - 16)


def _rounded_up(x: Tensor) -> Tensor:
    """Not less than any number that rounds to ``x``, with 16 significant bits: the last 8 of float32's become 0."""
    import torch

    whole = x.contiguous().view(torch.int32)
    return ((whole + 256) & ~255).view(torch.float32)


def _packed(codes: Tensor) -> Tensor:
    import torch

    size = codes.shape[-1]
    padded = torch.nn.functional.pad(codes, (0, -size % RUN)) + 8
    runs = torch.unflatten(padded.to(torch.uint8), -1, (-1, 2, RUN // 2))
    return (runs[..., 0, :] | (runs[..., 1, :] << 4)).flatten(-2)


def _unpacked(codes: Tensor, size: int) -> Tensor:
    import torch

    runs = torch.unflatten(codes, -1, (-1, RUN // 2))
    both = torch.stack((runs & 15, runs >> 4), dim=-2)
    return both.flatten(-3)[..., :size].to(torch.int8) - 8
