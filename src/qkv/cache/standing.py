"""Where the keys of a cache stand: consecutive positions, or the ones that were given.

It knows counts and positions; it refuses to know tensors of keys.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import CacheError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Standing:
    """``count`` keys at ``first``, ``first + 1``, ...; or at ``given``, int64 ``[count]`` or ``[batch, count]``."""

    count: int = 0
    first: int = 0
    given: Tensor | None = None

    @property
    def following(self) -> int | Tensor:
        """Where the next token stands: behind the largest position, of each sequence where they differ."""
        if self.given is None:
            return self.first + self.count
        return self.given.amax(-1) + 1 if self.count else self.first

    def next(self, count: int) -> int | Tensor:
        """The positions of ``count`` more tokens: the first one's, or all of them as ``[..., count]``."""
        import torch

        found = self.following
        if isinstance(found, int):
            return found
        return found.unsqueeze(-1) + torch.arange(count, device=found.device)

    def extended(self, count: int, positions: int | Tensor | None) -> Standing:
        """With ``count`` more tokens at ``positions``; behind the others where none are given."""
        import torch

        at = self.next(count) if positions is None else positions
        if isinstance(at, int) and self.given is None:
            if self.count == 0:
                return Standing(count, at)
            if at == self.first + self.count:
                return replace(self, count=self.count + count)
        new = torch.arange(at, at + count) if isinstance(at, int) else at
        if self.count == 0:
            return Standing(count, 0, new)
        old = self.tensor().to(new.device)
        if old.dim() != new.dim():
            batch = max(old.dim(), new.dim()) == 2 and (old if old.dim() == 2 else new).shape[0]
            old, new = (x if x.dim() == 2 else x.expand(int(batch), -1) for x in (old, new))
        return Standing(self.count + count, 0, torch.cat((old, new), dim=-1))

    def last(self, count: int) -> Standing:
        """The last ``count`` keys."""
        gone = self.count - count
        if gone <= 0:
            return self
        if self.given is None:
            return Standing(count, self.first + gone)
        return Standing(count, 0, self.given[..., gone:])

    def cut(self, count: int) -> Standing:
        """The first ``count`` keys."""
        return Standing(count, self.first, None if self.given is None else self.given[..., :count])

    def chosen(self, index: Tensor) -> Standing:
        """The positions of the sequences ``index``."""
        if self.given is None or self.given.dim() == 1:
            return self
        return replace(self, given=self.given.index_select(0, index.to(self.given.device)))

    def tensor(self) -> Tensor:
        """All positions, int64."""
        import torch

        return torch.arange(self.first, self.first + self.count) if self.given is None else self.given


NOWHERE = Standing()
"""Where no keys stand."""


def checked_count(kind: str, count: object, most: int) -> int:
    """``count`` as a number of tokens to keep; ``CacheError`` for one that the cache does not have."""
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= most:
        raise CacheError(
            f"truncate({count!r}): the {kind} cache holds {most} tokens.\n"
            f"  Give how many of them to keep, from 0 to {most}."
        )
    return count
