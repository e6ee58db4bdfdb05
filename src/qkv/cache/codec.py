"""Numbers as small integers with a scale for each row of features: what quantized caches hold.

``x ~ scale * code`` with codes in [-127, 127] (8 bits) or [-7, 7] (4 bits). The scale has at most 16 significant bits,
so that the product with a code is exact in float32, and ``|x - scale * code| <= scale / 2`` holds exactly. A row with
an element that is not finite has the scale NaN and codes 0: the row is NaN, and no other one is touched.

Codes of 4 bits lie two in a byte, plus 8: in each run of 32 features, byte n holds feature n in its low half and
feature n + 16 in its high half. The feature axis is padded to a multiple of 32 with zeros.

Ordinary tensors on a CPU are encoded by the compiled core, all others by torch: both follow the same rule and give the
same bits.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

from ..core import is_built, loaded
from ..errors import InternalError

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

    if not _core_takes(x):
        return _by_torch(x, bits)
    kind = torch.int8 if bits == 8 else torch.uint8
    codes = torch.empty((*x.shape[:-1], width(x.shape[-1], bits)), dtype=kind)
    scale = torch.empty(x.shape[:-1], dtype=torch.float32)
    _by_core(x, bits, codes, scale)
    return codes, scale


def encode_into(x: Tensor, bits: int, codes: Tensor, scale: Tensor, first: int) -> None:
    """The same of ``x [..., n, feature]``, written into the n slots from ``first`` on of ``codes [..., slot, width]``,
    the last axis contiguous, and ``scale [..., slot]``.
    """
    lead, count = x.shape[:-2], x.shape[-2]
    fits = (
        first >= 0
        and first + count <= codes.shape[-2] == scale.shape[-1]
        and codes.shape[-1] == width(x.shape[-1], bits)
    )
    if not fits or codes.shape[:-2] != lead or scale.shape[:-1] != lead:
        raise InternalError(
            f"rows {tuple(x.shape)} from slot {first} on do not fit codes {tuple(codes.shape)} and scales "
            f"{tuple(scale.shape)}; please report this"
        )
    if _core_takes(x):
        _by_core(x, bits, codes, scale, first)
        return
    found, steps = _by_torch(x, bits)
    codes.narrow(-2, first, count).copy_(found)
    scale.narrow(-1, first, count).copy_(steps)


@cache
def _elements() -> dict[torch.dtype, int]:
    """The core's numbers of types (csrc/elements.h)."""
    import torch

    return {torch.float64: 0, torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}


def _core_takes(x: Tensor) -> bool:
    """Whether ``x`` is memory that the core can read: no subclass, transform, mode, trace or negated view."""
    import torch

    return (
        type(x) is torch.Tensor
        and x.is_cpu
        and x.dtype in _elements()
        and not torch.compiler.is_compiling()
        and torch._C._functorch.peek_interpreter_stack() is None  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType, reportAttributeAccessIssue]
        and torch._C._len_torch_dispatch_stack() == 0  # pyright: ignore[reportPrivateUsage]
        and not x.is_neg()
        and is_built()
    )


def _by_core(x: Tensor, bits: int, codes: Tensor, scale: Tensor, first: int = 0) -> None:
    """Writes into the slots from ``first`` on, which fit: addresses, where views would take longer than the codes."""
    code_strides, scale_strides = codes.stride(), scale.stride()
    loaded().encode(
        x.data_ptr(),
        _elements()[x.dtype],
        bits,
        x.shape,
        x.stride(),
        codes.data_ptr() + (first * code_strides[-2] if first else 0),
        code_strides,
        scale.data_ptr() + (4 * first * scale_strides[-1] if first else 0),
        scale_strides,
    )


def _by_torch(x: Tensor, bits: int) -> tuple[Tensor, Tensor]:
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
