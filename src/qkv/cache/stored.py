"""Keys or values as they lie in a cache: what strategies that read a cache in place are given.

The layout is fixed, because kernels read it. ``part`` and ``whole`` make ordinary tensors of it for everybody else.
This module knows storage; it refuses to know what is attended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .codec import decode

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Newest:
    """The rows from ``first`` on as they came: row n lies at slot ``n % slots`` of ``data [shared..., slot, feature]``,
    the feature contiguous.
    """

    data: Tensor
    first: int

    def part(self, first: int, last: int, within: tuple[int, int, int] | None = None) -> Tensor:
        """Rows ``first`` to ``last - 1``; ``within`` as in ``Stored.part``."""
        data = self.data
        if within is not None:
            axis, low, high = within
            data = data.narrow(axis, low, high - low)
        return _cyclic(data, -2, first % data.shape[-2], last - first)


@dataclass(frozen=True, slots=True)
class Stored:
    """All keys, or all values, of a cache.

    ``data`` has the axes (shared coordinates in canonical order, slot, feature), the feature contiguous; in pages
    (page, shared coordinates without the batch, slot in the page, feature). ``scale``: float32, data's axes without the
    feature; None where data is not quantized. ``bits``: 8 or 4 where data holds codes (``cache.codec``), else None.
    ``start``: the slot of the oldest key; keys follow cyclically over data's slots. ``count``: how many keys, the most
    of any sequence. ``pages``: int32 ``[batch, most pages or more]``; slot j of sequence b is ``pages[b, j //
    page_size]`` at ``j % page_size``, and unused entries are 0. ``lengths``: int64 ``[batch]`` where sequences have
    different numbers of keys: ``part`` has zeros behind them. ``feature_size``: features in a row, packed or not.
    ``dtype``: what codes become in ``part``. ``newest``: the last rows once more, which are read instead of their
    codes; None where there are none, and always in pages.
    """

    data: Tensor
    scale: Tensor | None
    bits: int | None
    start: int
    count: int
    pages: Tensor | None
    page_size: int
    lengths: Tensor | None
    feature_size: int
    dtype: torch.dtype
    newest: Newest | None = None

    @property
    def shared(self) -> tuple[int, ...]:
        """The sizes of the shared coordinates."""
        if self.pages is None:
            return tuple(self.data.shape[:-2])
        return (self.pages.shape[0], *self.data.shape[1:-2])

    def part(self, first: int, last: int, within: tuple[int, int, int] | None = None) -> Tensor:
        """Keys ``first`` to ``last - 1``, dequantized and gathered: ``[shared..., last - first, feature]``.

        ``within`` is a shared axis and the range along it that is wanted; other elements of that axis are left out.
        """
        newest = self.newest
        if newest is not None and last > newest.first:
            begin = max(first, newest.first)
            rows = newest.part(begin, last, within).to(self.dtype)
            return rows if begin == first else _joined(self.part(first, begin, within), rows)
        data, scale = self._cut(first, last, within)
        if scale is not None and self.bits is not None:
            return decode(data, scale, self.bits, self.feature_size, self.dtype)
        return data

    def whole(self) -> Tensor:
        """All keys, as ``part``."""
        return self.part(0, self.count)

    def raw(self) -> tuple[Tensor, Tensor | None]:
        """All keys in order as they are stored, with their scales."""
        return self._cut(0, self.count, None)

    def _cut(self, first: int, last: int, within: tuple[int, int, int] | None) -> tuple[Tensor, Tensor | None]:
        if self.pages is not None:
            return self._gathered(self.pages, first, last, within)
        data, scale = self.data, self.scale
        if within is not None:
            axis, low, high = within
            data = data.narrow(axis, low, high - low)
            scale = None if scale is None else scale.narrow(axis, low, high - low)
        slots = self.data.shape[-2]
        begin = (self.start + first) % slots if slots else 0
        data = _cyclic(data, -2, begin, last - first)
        return data, None if scale is None else _cyclic(scale, -1, begin, last - first)

    def _gathered(
        self, pages: Tensor, first: int, last: int, within: tuple[int, int, int] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Whole pages that hold the range, taken from the pool, then the range; zeros behind each sequence's end."""
        import torch

        low, high = first // self.page_size, (last + self.page_size - 1) // self.page_size
        table, lengths = pages[:, low:high].long(), self.lengths
        data, scale = self.data, self.scale
        if within is not None:
            axis, begin, end = within
            if axis == 0:
                table, lengths = table[begin:end], None if lengths is None else lengths[begin:end]
            else:
                data = data.narrow(axis, begin, end - begin)
                scale = None if scale is None else scale.narrow(axis, begin, end - begin)
        offset = first - low * self.page_size
        # [batch, page, shared..., slot, feature] -> [batch, shared..., page, slot, feature]
        taken = data[table].movedim(1, -3).flatten(-3, -2).narrow(-2, offset, last - first)
        scales = None if scale is None else scale[table].movedim(1, -2).flatten(-2).narrow(-1, offset, last - first)
        if lengths is not None:
            past = torch.arange(first, last, device=data.device) >= lengths[:, None]
            past = past.view(past.shape[0], *([1] * (taken.dim() - 3)), past.shape[1])
            if scales is not None:
                scales = scales.masked_fill(past, 0.0)
            else:
                taken = taken.masked_fill(past.unsqueeze(-1), 0)
        return taken, scales


def _joined(before: Tensor, after: Tensor) -> Tensor:
    import torch

    return torch.cat((before, after), dim=-2)


def _cyclic(x: Tensor, axis: int, begin: int, count: int) -> Tensor:
    """``count`` elements along ``axis`` from ``begin`` on, which continue at the start; a view unless they do."""
    import torch

    before = min(count, x.shape[axis] - begin)
    if before == count:
        return x.narrow(axis, begin, count)
    return torch.cat((x.narrow(axis, begin, before), x.narrow(axis, 0, count - before)), dim=axis)
