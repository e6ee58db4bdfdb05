"""The dense cache: every token's keys and values in one tensor each, grown geometrically or of a fixed capacity.

Calls read plain views of it, so every strategy takes it. ``Quantized`` holds codes in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..errors import CacheError, SpecError
from .codec import BITS
from .newest import Recent
from .protocol import Cache, View
from .slots import Slots
from .standing import NOWHERE, Standing, checked_count

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 16
"""Slots of a first allocation that is left to grow."""

RECENT = 64
"""Tokens that a quantized cache holds as they came too."""


@dataclass(frozen=True, slots=True)
class State:
    """Everything that changes: replaced as a whole, so that it can be put back."""

    keys: Slots | None = None
    values: Slots | None = None
    standing: Standing = NOWHERE
    recent: Recent | None = None


class Dense(Cache):
    """All tokens, in one tensor of keys and one of values; ``capacity`` tokens at most, or as many as fit in memory.

    Storage doubles when it is full; with a capacity it is allocated once, and more tokens raise ``CacheError``.

    >>> import qkv, torch
    >>> spec, cache = qkv.Spec(keep=qkv.causal()), qkv.cache.Dense()
    >>> q = k = v = torch.randn(1, 2, 5, 8)
    >>> out = spec(q, k, v, cache=cache)
    >>> out = spec(q[:, :, :1], k[:, :, :1], v[:, :, :1], cache=cache)
    >>> cache.length
    6
    """

    kind: ClassVar[str] = "dense"
    bits: int | None = None
    recent: int = 0
    """How many of the newest tokens are held as they came too."""

    def __init__(self, capacity: int | None = None) -> None:
        super().__init__()
        self.capacity = None if capacity is None else whole(type(self).__name__, "capacity", capacity)
        self.state: State = self.fresh()

    def fresh(self) -> State:
        """Nothing held."""
        return State()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(x.nbytes for x in (self.state.keys, self.state.values, self.state.recent) if x is not None)

    def extend(
        self,
        k: Tensor,
        v: Tensor,
        positions: int | Tensor | None = None,
        lengths: Sequence[int] | None = None,
    ) -> None:
        """Writes behind the tokens that are held, into larger tensors where these are full."""
        rows = self.accept(k, v, lengths)
        count = k.shape[-2]
        used = self.state.standing.count
        standing = self.state.standing.extended(count, positions)
        keys, values = self._room(used, used + count, k, v)
        keys.put(used, k)
        values.put(used, v)
        self.rows = rows
        self.state = State(keys, values, standing, self._recent(used, k, v))

    def _recent(self, used: int, k: Tensor, v: Tensor) -> Recent | None:
        if not self.recent:
            return None
        return (self.state.recent or Recent.room(k, v, self.recent, used)).followed(used, k, v)

    def _room(self, used: int, needed: int, k: Tensor, v: Tensor) -> tuple[Slots, Slots]:
        keys, values = self.state.keys, self.state.values
        if self.capacity is not None and needed > self.capacity:
            raise CacheError(
                f"append: {needed - used} tokens do not fit: the {self.kind} cache has room for {self.capacity} and "
                f"holds {used}.\n  Make it larger, leave the capacity out, or truncate first."
            )
        if keys is None or values is None:
            num_slots = max(LEAST, needed) if self.capacity is None else self.capacity
            return (
                Slots.room(tuple(k.shape[:-2]), num_slots, k, self.bits),
                Slots.room(tuple(v.shape[:-2]), num_slots, v, self.bits),
            )
        if needed <= keys.num_slots:
            return keys, values
        num_slots = max(needed, 2 * keys.num_slots)
        return keys.grown(num_slots, used), values.grown(num_slots, used)

    def view(self) -> View:
        """Views of the used slots."""
        keys, values, standing = self._held()
        count = standing.count
        return View(keys.data.narrow(-2, 0, count), values.data.narrow(-2, 0, count), standing)

    def _held(self) -> tuple[Slots, Slots, Standing]:
        if self.state.keys is None or self.state.values is None:
            raise self.empty("spec(q, cache=)")
        return self.state.keys, self.state.values, self.state.standing

    def truncate(self, count: int) -> None:
        """Keeps the first ``count`` tokens; storage stays."""
        kept = checked_count(self.kind, count, self.length)
        recent = None if self.state.recent is None else self.state.recent.cut(kept)
        self.state = replace(self.state, standing=self.state.standing.cut(kept), recent=recent)

    def fork(self) -> Self:
        """A copy of the used slots."""
        twin = self._like()
        if self.state.keys is not None and self.state.values is not None:
            used = self.length
            num_slots = self.capacity if self.capacity is not None else max(LEAST, used)
            keys, values = self.state.keys.grown(num_slots, used), self.state.values.grown(num_slots, used)
            recent = None if self.state.recent is None else self.state.recent.copied()
            twin.state = replace(self.state, keys=keys, values=values, recent=recent)
        return self.adopt(twin)

    def _like(self) -> Self:
        return type(self)(self.capacity)

    def reorder(self, index: Tensor | Sequence[int]) -> None:
        """The chosen sequences, copied."""
        chosen = self.sequences(index)
        keys, values, standing = self._held()
        rows = None if self.rows is None else replace(self.rows, shared=(chosen.numel(), *self.rows.shared[1:]))
        recent = None if self.state.recent is None else self.state.recent.chosen(chosen)
        self.state = State(keys.chosen(chosen), values.chosen(chosen), standing.chosen(chosen), recent)
        self.rows = rows

    def record(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The used slots."""
        settings: dict[str, Any] = {"capacity": self.capacity}
        return settings, recorded(self.state.keys, self.state.values, self.state.standing, self.length)


class Quantized(Dense):
    """All tokens as codes of ``bits`` (8 or 4) with a float32 scale for each token and head; ``capacity`` as ``Dense``.

    ``x ~ scale * code`` with ``|x - scale * code| <= scale / 2`` exactly. The ``recent`` newest tokens are held as they
    came too, in ``2 * recent`` more slots, and are read instead of their codes: attention looks at them most, so that
    this brings a text much nearer to that of floats (after Liu et al. 2024, KIVI, arXiv 2402.02750). ``truncate``
    leaves fewer of them until others follow. Strategies that read codes take it.

    >>> import qkv, torch
    >>> cache = qkv.cache.Quantized(bits=8, recent=0)
    >>> cache.append(torch.randn(1, 2, 64, 64), torch.randn(1, 2, 64, 64))
    >>> cache.nbytes / (2 * 2 * 64 * 64 * 4)  # of float32
    0.265625
    """

    kind: ClassVar[str] = "quantized"

    def __init__(self, bits: int = 8, capacity: int | None = None, recent: int = RECENT) -> None:
        super().__init__(capacity)
        self.bits = checked_bits("Quantized", bits)
        self.recent = whole("Quantized", "recent", recent, least=0)

    def _like(self) -> Self:
        return type(self)(self.bits or 8, self.capacity, self.recent)

    @property
    def storage(self) -> frozenset[str]:
        """Codes."""
        return frozenset({"quantized"})

    def view(self) -> View:
        """Codes and scales, and the newest rows beside them."""
        keys, values, standing = self._held()
        newest = (None, None) if self.state.recent is None else self.state.recent.read()
        first, second = (x.stored(0, standing.count, new) for x, new in zip((keys, values), newest, strict=True))
        return View(first, second, standing)

    def record(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The used slots, with the number of bits, and the newest rows in order."""
        settings, tensors = super().record()
        settings |= {"bits": self.bits, "recent": self.recent}
        if self.state.recent is not None:
            settings["newest"] = self.length - self.state.recent.first
            tensors |= self.state.recent.recorded(self.length)
        return settings, tensors


def recorded(keys: Slots | None, values: Slots | None, standing: Standing, used: int) -> dict[str, Tensor]:
    """The used slots of both, and the positions where they were given."""
    found: dict[str, Tensor] = {}
    for name, slots in (("keys", keys), ("values", values)):
        if slots is not None:
            found[name] = slots.data.narrow(-2, 0, used)
            if slots.scale is not None:
                found[f"{name}.scale"] = slots.scale.narrow(-1, 0, used)
    if standing.given is not None:
        found["positions"] = standing.given
    return found


def whole(kind: str, name: str, value: object, least: int = 1) -> int:
    """A whole number of at least ``least``; ``SpecError`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SpecError(f"{kind}: {name} = {value!r}.\n  Give a whole number of at least {least}.")
    return value


def checked_bits(kind: str, bits: object) -> int:
    """8 or 4; ``SpecError`` for anything else."""
    if isinstance(bits, bool) or bits not in BITS:
        raise SpecError(f"{kind}: bits = {bits!r}.\n  Codes have 8 or 4 bits.")
    return int(bits)  # pyright: ignore[reportArgumentType] - one of the two
