"""The ring cache: the last tokens only, for layers whose mask has a window.

Slots are used in turn, so nothing is moved and memory does not grow. Many tokens at once go through a larger tensor
for the length of one call, because the first of them still sees the window before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..errors import CacheError
from .dense import checked_bits, recorded, whole
from .protocol import Cache, View
from .slots import Slots
from .standing import NOWHERE, Standing

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class State:
    """``start`` is the slot of the oldest held token, ``seen`` how many tokens there were."""

    keys: Slots | None = None
    values: Slots | None = None
    start: int = 0
    seen: int = 0
    standing: Standing = NOWHERE


class Ring(Cache):
    """The last ``window`` tokens, those that ``keep=qkv.window(window)`` can see, and ``spare`` older ones.

    Memory is bounded by ``window + 2 * spare + 1`` tokens. ``truncate`` reaches back as far as the tokens that the
    next query needs are still held: one token, and ``spare`` more. A mask that keeps a dropped token is refused by the
    call. ``bits``: 8 or 4 to hold codes, as ``Quantized``.

    >>> import qkv, torch
    >>> spec, cache = qkv.Spec(keep=qkv.causal() & qkv.window(4)), qkv.cache.Ring(4)
    >>> for _ in range(10):
    ...     x = torch.randn(1, 2, 1, 8)
    ...     out = spec(x, x, x, cache=cache)
    >>> cache.length, cache.positions.tolist()
    (10, [6, 7, 8, 9])
    """

    kind: ClassVar[str] = "ring"

    def __init__(self, window: int, *, spare: int = 0, bits: int | None = None) -> None:
        super().__init__()
        self.window = whole("Ring", "window", window)
        self.spare = whole("Ring", "spare", spare, least=0)
        self.bits = None if bits is None else checked_bits("Ring", bits)
        self.state: State = self.fresh()

    def fresh(self) -> State:
        """Nothing held."""
        return State()

    @property
    def _most(self) -> int:
        """How many tokens are held between calls."""
        return self.window + self.spare

    @property
    def _num_slots(self) -> int:
        """One slot more than is held, so that what is written never covers what may be put back."""
        return self._most + self.spare + 1

    @property
    def length(self) -> int:
        """How many tokens were seen."""
        return self.state.seen

    @property
    def nbytes(self) -> int:
        """Bytes of the slots."""
        return sum(x.nbytes for x in (self.state.keys, self.state.values) if x is not None)

    @property
    def storage(self) -> frozenset[str]:
        """A ring, perhaps of codes."""
        return frozenset({"ring"} if self.bits is None else {"ring", "quantized"})

    def extend(
        self,
        k: Tensor,
        v: Tensor,
        positions: int | Tensor | None = None,
        lengths: Sequence[int] | None = None,
    ) -> None:
        """Writes into free slots; into a larger tensor where they are too few."""
        rows = self.accept(k, v, lengths)
        state, count = self.state, k.shape[-2]
        standing = state.standing.extended(count, positions)
        held = state.standing.count
        keys, values, start = state.keys, state.values, state.start
        if keys is None or values is None:
            lead, start = tuple(k.shape[:-2]), 0
            num_slots = max(self._num_slots, count)
            keys, values = (Slots.room(lead, num_slots, x, self.bits) for x in (k, v))
        elif held + count > keys.num_slots:
            keys, values = (unrolled(x, start, held, held + count) for x in (keys, values))
            start = 0
        keys.put_cyclic(start + held, k)
        values.put_cyclic(start + held, v)
        self.rows = rows
        self.state = State(keys, values, start, state.seen + count, standing)

    def settle(self) -> None:
        """Lets the oldest tokens go, and a tensor that was larger than the ring."""
        state = self.state
        if state.keys is None or state.values is None:
            return
        gone = max(0, state.standing.count - self._most)
        standing, start = state.standing.last(self._most), (state.start + gone) % state.keys.num_slots
        keys, values = state.keys, state.values
        if keys.num_slots > self._num_slots:
            keys, values = (unrolled(x, start, standing.count, self._num_slots) for x in (keys, values))
            start = 0
        self.state = replace(state, keys=keys, values=values, start=start, standing=standing)

    def view(self) -> View:
        """Two segments of slots, from the oldest on."""
        state = self.state
        if state.keys is None or state.values is None:
            raise self.empty("spec(q, cache=)")
        count = state.standing.count
        return View(state.keys.stored(state.start, count), state.values.stored(state.start, count), state.standing)

    def truncate(self, count: int) -> None:
        """Takes the last tokens back, as long as the window before them is still held."""
        state = self.state
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= state.seen:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise CacheError(
                f"truncate({count!r}): the ring cache has seen {state.seen} tokens.\n"
                f"  Give how many of them to keep, from 0 to {state.seen}."
            )
        oldest = state.seen - state.standing.count
        if count < state.seen and oldest > max(0, count - self.window + 1):
            raise CacheError(
                f"truncate({count}): the next query needs tokens {max(0, count - self.window + 1)} to {count - 1}, and "
                f"the ring has dropped all before {oldest}.\n"
                f"  It can take back {1 + self.spare} tokens; Ring({self.window}, spare=n) keeps n more."
            )
        self.state = replace(state, seen=count, standing=state.standing.cut(count - oldest))

    def fork(self) -> Self:
        """A copy of the slots."""
        twin = type(self)(self.window, spare=self.spare, bits=self.bits)
        keys, values = self.state.keys, self.state.values
        if keys is not None and values is not None:
            twin.state = replace(
                self.state,
                keys=keys.grown(keys.num_slots, keys.num_slots),
                values=values.grown(values.num_slots, values.num_slots),
            )
        return self.adopt(twin)

    def reorder(self, index: Tensor | Sequence[int]) -> None:
        """The chosen sequences, copied."""
        chosen = self.sequences(index)
        state = self.state
        if state.keys is None or state.values is None:
            raise self.empty("reorder")
        rows = None if self.rows is None else replace(self.rows, shared=(chosen.numel(), *self.rows.shared[1:]))
        self.state = replace(
            state,
            keys=state.keys.chosen(chosen),
            values=state.values.chosen(chosen),
            standing=state.standing.chosen(chosen),
        )
        self.rows = rows

    def record(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The held tokens, oldest first."""
        state = self.state
        held = state.standing.count
        settings = {"window": self.window, "spare": self.spare, "bits": self.bits, "seen": state.seen}
        keys, values = (None if x is None else unrolled(x, state.start, held, held) for x in (state.keys, state.values))
        return settings, recorded(keys, values, state.standing, held)


def unrolled(slots: Slots, start: int, count: int, num_slots: int) -> Slots:
    """A copy with ``num_slots`` slots whose first ``count`` hold those from ``start`` on."""
    made = slots.grown(num_slots, 0)
    held = slots.stored(start, count)
    data, scale = held.raw()
    made.data.narrow(-2, 0, count).copy_(data)
    if made.scale is not None and scale is not None:
        made.scale.narrow(-1, 0, count).copy_(scale)
    return made
