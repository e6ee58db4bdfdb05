"""The recurrent cache: what linear attention remembers of all tokens, in memory that does not grow.

A state is a sum over the keys, so it can be copied and its sequences chosen, and no token can be taken out of it. This
module knows sums; it refuses to know feature maps, which a call applies before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..errors import CacheError
from .protocol import Cache, View
from .standing import NOWHERE, Standing

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class State:
    """``memory [shared..., groups..., feature, value feature]`` and ``total [..., feature, 1]``, sums over the keys."""

    memory: Tensor | None = None
    total: Tensor | None = None
    standing: Standing = NOWHERE
    fades: bool = False


class Recurrent(Cache):
    """The state of linear attention, for ``weights=qkv.linear(...)`` with ``keep=qkv.causal()``; nothing to choose.

    ``append(k, v)`` adds keys that are mapped already; a call maps them. With a decay the state fades at every step,
    which only a call can do. ``truncate`` raises ``CacheError``, but for 0 and for all: fork before a draft.

    >>> import qkv, torch
    >>> spec, cache = qkv.Spec(keep=qkv.causal(), weights=qkv.linear()), qkv.cache.Recurrent()
    >>> x = torch.randn(1, 2, 7, 4)
    >>> out = spec(x, x, x, cache=cache)
    >>> cache.length, cache.nbytes
    (7, 160)
    """

    kind: ClassVar[str] = "recurrent"

    def __init__(self) -> None:
        super().__init__()
        self.state: State = self.fresh()

    def fresh(self) -> State:
        """Nothing remembered."""
        return State()

    @property
    def nbytes(self) -> int:
        """Bytes of the state."""
        return sum(x.nbytes for x in (self.state.memory, self.state.total) if x is not None)

    @property
    def storage(self) -> frozenset[str]:
        """A state."""
        return frozenset({"recurrent"})

    def held(self, count: int, lengths: Sequence[int] | None = None) -> int:
        """The new tokens alone: no earlier one is a key any more."""
        del lengths
        return count

    def extend(
        self,
        k: Tensor,
        v: Tensor,
        positions: int | Tensor | None = None,
        lengths: Sequence[int] | None = None,
    ) -> None:
        """Adds mapped keys to the sums."""
        import torch

        rows = self.accept(k, v, lengths)
        if self.state.fades:
            raise CacheError(
                "append: the state fades at every token, by a decay that only a spec knows.\n"
                "  Append through the call: spec(q, k, v, cache=cache)."
            )
        wide = torch.float64 if k.dtype == torch.float64 else torch.float32
        key, value = k.to(wide), v.to(wide)
        memory, total = key.transpose(-1, -2) @ value, key.sum(-2).unsqueeze(-1)
        if self.state.memory is not None and self.state.total is not None:
            # a call may have left axes of size 1 for groups of heads
            memory = memory.reshape(self.state.memory.shape) + self.state.memory
            total = total.reshape(self.state.total.shape) + self.state.total
        self.rows = rows
        self.remember(memory, total, k.shape[-2], positions, fades=False)

    def remember(
        self, memory: Tensor, total: Tensor, count: int, positions: int | Tensor | None, *, fades: bool
    ) -> None:
        """The sums after ``count`` more tokens."""
        standing = self.state.standing.extended(count, positions)
        self.state = State(memory, total, standing, fades)

    def view(self) -> View:
        """A state is no list of keys."""
        raise CacheError(
            "a recurrent cache holds a sum over the keys and no key.\n"
            "  It serves linear weights: qkv.Spec(keep=qkv.causal(), weights=qkv.linear())."
        )

    def truncate(self, count: int) -> None:
        """0 begins anew, and all tokens stay as they are; anything else raises ``CacheError``."""
        if count == 0:
            self.release()
        elif count != self.length:
            raise CacheError(
                f"truncate({count!r}): the recurrent cache holds a sum over {self.length} tokens, out of which none "
                "can be taken.\n  Fork it before a draft, and go on with the fork that is accepted."
            )

    def fork(self) -> Self:
        """The same sums; nothing writes into them."""
        twin = type(self)()
        twin.state = self.state
        return self.adopt(twin)

    def reorder(self, index: Tensor | Sequence[int]) -> None:
        """The chosen sequences' sums."""
        chosen = self.sequences(index)
        state = self.state
        if state.memory is None or state.total is None or self.rows is None:
            raise self.empty("reorder")
        memory, total = state.memory.index_select(0, chosen), state.total.index_select(0, chosen)
        self.state = State(memory, total, state.standing.chosen(chosen), state.fades)
        self.rows = replace(self.rows, shared=(chosen.numel(), *self.rows.shared[1:]))

    def record(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The sums."""
        found: dict[str, Tensor] = {}
        if self.state.memory is not None and self.state.total is not None:
            found = {"memory": self.state.memory, "total": self.state.total}
        standing = self.state.standing
        if standing.given is not None:
            found["positions"] = standing.given
        return {"seen": standing.count, "first": standing.first, "fades": self.state.fades}, found
