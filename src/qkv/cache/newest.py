"""The newest rows of a quantized cache once more as they came: what codes would round where attention looks most.

A ring of twice as many slots as rows are kept, so that an append writes where nothing is held and can be taken back. It
knows rows and slots; it refuses to know codes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .slots import Slots
from .stored import Newest

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Recent:
    """Keys and values of the tokens from ``first`` on, token n at slot ``n % num_slots``; at most half of the slots
    are in use.
    """

    keys: Slots
    values: Slots
    first: int

    @staticmethod
    def room(k: Tensor, v: Tensor, window: int, first: int) -> Recent:
        """Unused slots for rows like those of ``k`` and ``v``; nothing before token ``first``."""
        lead = tuple(k.shape[:-2])
        return Recent(Slots.room(lead, 2 * window, k, None), Slots.room(lead, 2 * window, v, None), first)

    def followed(self, used: int, k: Tensor, v: Tensor) -> Recent:
        """With the rows of ``k`` and ``v`` behind the ``used`` tokens that there are, as many of them as are kept."""
        window, count = self.keys.num_slots // 2, k.shape[-2]
        kept = min(count, window)
        # so many that they would lie where rows of before lie, which may have to come back
        found = self if count <= window else Recent.room(k, v, window, used + count - kept)
        for slots, rows in ((found.keys, k), (found.values, v)):
            slots.put_cyclic(used + count - kept, rows.narrow(-2, count - kept, kept))
        return replace(found, first=max(found.first, used + count - window))

    def cut(self, count: int) -> Recent:
        """Without the tokens from ``count`` on."""
        return replace(self, first=min(self.first, count))

    def copied(self) -> Recent:
        """The same in memory of its own."""
        return replace(self, keys=self.keys.grown(num := self.keys.num_slots, num), values=self.values.grown(num, num))

    def chosen(self, index: Tensor) -> Recent:
        """The elements ``index`` of the first axis, copied."""
        return replace(self, keys=self.keys.chosen(index), values=self.values.chosen(index))

    @property
    def nbytes(self) -> int:
        """Bytes of storage."""
        return self.keys.nbytes + self.values.nbytes

    def read(self) -> tuple[Newest, Newest]:
        """What strategies read, of keys and of values."""
        return Newest(self.keys.data, self.first), Newest(self.values.data, self.first)

    def recorded(self, count: int) -> dict[str, Tensor]:
        """The rows up to token ``count``, in order."""
        parts = zip(("keys", "values"), self.read(), strict=True)
        return {f"{name}.newest": newest.part(self.first, count) for name, newest in parts}

    @staticmethod
    def restored(keys: Tensor, values: Tensor, window: int, count: int) -> Recent:
        """What was recorded, as the last of ``count`` tokens."""
        first = count - keys.shape[-2]
        return Recent.room(keys, values, window, first).followed(first, keys, values)
