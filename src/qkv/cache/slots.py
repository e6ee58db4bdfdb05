"""Room for keys or for values: one tensor with an axis of slots, and scales beside it where they are quantized.

It knows how rows are written and copied; it refuses to know which slots are in use.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from . import memory
from .codec import encode_into, width
from .stored import Newest, Stored

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Slots:
    """``data [lead..., slot, width]``, ``scale [lead..., slot]``; rows have ``feature_size`` features of ``dtype``."""

    data: Tensor
    scale: Tensor | None
    bits: int | None
    feature_size: int
    dtype: torch.dtype

    @staticmethod
    def room(lead: tuple[int, ...], num_slots: int, like: Tensor, bits: int | None) -> Slots:
        """Unused slots for rows like those of ``like [..., feature]``."""
        import torch

        size = like.shape[-1]
        kind = like.dtype if bits is None else torch.int8 if bits == 8 else torch.uint8
        data = memory.allocate((*lead, num_slots, width(size, bits)), kind, like.device)
        scale = None if bits is None else memory.allocate((*lead, num_slots), torch.float32, like.device)
        return Slots(data, scale, bits, size, like.dtype)

    @property
    def num_slots(self) -> int:
        """How many rows fit."""
        return self.data.shape[-2]

    @property
    def nbytes(self) -> int:
        """Bytes of storage, scales included."""
        return self.data.nbytes + (0 if self.scale is None else self.scale.nbytes)

    def put(self, first: int, rows: Tensor) -> None:
        """Writes ``rows [lead..., n, feature]`` into the slots from ``first`` on."""
        if self.bits is None or self.scale is None:
            self.data.narrow(-2, first, rows.shape[-2]).copy_(rows)
            return
        encode_into(rows, self.bits, self.data, self.scale, first)

    def put_cyclic(self, first: int, rows: Tensor) -> None:
        """The same over slots that go on at the start."""
        begin = first % self.num_slots
        before = min(rows.shape[-2], self.num_slots - begin)
        self.put(begin, rows.narrow(-2, 0, before))
        if before < rows.shape[-2]:
            self.put(0, rows.narrow(-2, before, rows.shape[-2] - before))

    def grown(self, num_slots: int, used: int) -> Slots:
        """More slots, with the first ``used`` rows copied as they are."""
        data = memory.allocate((*self.data.shape[:-2], num_slots, self.data.shape[-1]), self.data.dtype, self.device)
        data.narrow(-2, 0, used).copy_(self.data.narrow(-2, 0, used))
        scale = None
        if self.scale is not None:
            scale = memory.allocate((*self.scale.shape[:-1], num_slots), self.scale.dtype, self.device)
            scale.narrow(-1, 0, used).copy_(self.scale.narrow(-1, 0, used))
        return replace(self, data=data, scale=scale)

    def chosen(self, index: Tensor) -> Slots:
        """The elements ``index`` of the first axis, copied."""
        scale = None if self.scale is None else self.scale.index_select(0, index)
        return replace(self, data=self.data.index_select(0, index), scale=scale)

    def at(self, element: int) -> Slots:
        """A view of one element of the first axis."""
        return replace(self, data=self.data[element], scale=None if self.scale is None else self.scale[element])

    @property
    def device(self) -> torch.device:
        """Where the data lie."""
        return self.data.device

    def stored(self, start: int, count: int, newest: Newest | None = None) -> Stored:
        """What strategies read, without pages."""
        return Stored(
            self.data, self.scale, self.bits, start, count, None, 0, None, self.feature_size, self.working_dtype, newest
        )

    @property
    def working_dtype(self) -> torch.dtype:
        """What codes become: float64 for float64 rows, float32 for all others."""
        import torch

        return torch.float64 if self.dtype == torch.float64 else torch.float32
