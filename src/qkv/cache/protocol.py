"""What every cache can do, and what all kinds share: checks, and changes that can be taken back.

A cache is made without shapes; the first append says them. Every change is made in two steps: ``extend`` writes
where nothing was held and makes a new state of it, ``settle`` lets go of the old one; until then ``restore`` brings
back what ``snapshot`` saw. This module refuses to know how keys lie in memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..errors import CacheError, DeviceError, DtypeError, ShapeError, SizeMismatch
from .standing import Standing

if TYPE_CHECKING:
    import os

    import torch
    from torch import Tensor

    from ..terms.expr import Captured
    from .stored import Stored


@dataclass(frozen=True, slots=True)
class View:
    """What a call reads: keys and values as tensors or as they are stored, and where the keys stand.

    Where sequences differ in length, ``lengths`` says how many keys each has (a table that masks read), and
    ``begins [batch]`` where the newest tokens of each begin.
    """

    keys: Tensor | Stored
    values: Tensor | Stored
    standing: Standing
    lengths: Captured | None = None
    begins: Tensor | None = None

    def ends(self, count: int, num_new: int) -> int | Tensor:
        """Where the last ``count`` of ``num_new`` tokens stand (of all where that is 0): the first one's position, or
        all as ``[count]`` or ``[batch, count]``.
        """
        import torch

        if self.begins is not None and self.lengths is not None:
            first = self.begins + (num_new - count) if num_new else self.lengths.tensor - count
            return first.unsqueeze(-1) + torch.arange(count, device=first.device)
        last = self.standing.last(count)
        return last.first if last.given is None else last.given


@dataclass(frozen=True, slots=True)
class Rows:
    """What the first append settled: sizes of shared coordinates and features, type, device."""

    shared: tuple[int, ...]
    feature_size: int
    value_size: int
    dtype: torch.dtype
    device: torch.device

    @staticmethod
    def of(k: Tensor, v: Tensor) -> Rows:
        """The rows of ``k [shared..., n, feature]`` and ``v [shared..., n, value feature]``, checked."""
        for name, x in (("k", k), ("v", v)):
            if not hasattr(x, "requires_grad") or not x.dtype.is_floating_point:
                raise DtypeError(f"append: {name} is {_shown(x)}.\n  A cache holds float tensors of keys and values.")
            if x.dim() < 2:
                raise ShapeError(
                    f"append: {name} has the shape {tuple(x.shape)}.\n"
                    "  Its axes are the shared coordinates, the tokens and the feature: b h j d."
                )
        if k.shape[:-1] != v.shape[:-1]:
            raise SizeMismatch(
                f"append: k has the shape {tuple(k.shape)} and v {tuple(v.shape)}.\n"
                "  All axes but the last agree: shared coordinates, and as many values as keys."
            )
        if k.dtype != v.dtype:
            raise DtypeError(f"append: k is {k.dtype} and v is {v.dtype}.\n  Give one dtype: v.to(k.dtype).")
        if k.device != v.device:
            raise DeviceError(f"append: k is on {k.device} and v on {v.device}.\n  Move one: v.to(k.device).")
        return Rows(tuple(k.shape[:-2]), k.shape[-1], v.shape[-1], k.dtype, k.device)


class Cache(ABC):
    """Keys and values of the tokens so far, under one protocol.

    ``append(k, v)`` adds tokens, ``truncate(n)`` keeps the first n, ``fork()`` makes an independent copy,
    ``reorder(index)`` picks sequences along the first shared coordinate, ``release()`` empties it. ``length`` is how
    many tokens were seen, ``positions`` where the held ones stand, ``nbytes`` the bytes of storage. ``save`` writes
    a file that ``qkv.cache.load`` reads. Tensors have the axes (shared coordinates in canonical order, token,
    feature), keys turned by their positions already; a call ``spec(q, k, v, cache=cache)`` does all of it.
    """

    kind: ClassVar[str] = ""

    def __init__(self) -> None:
        self.state: Any = None
        """Everything that an append changes: replaced as a whole, never written into."""
        self.rows: Rows | None = None
        self.seal: object = None
        """What keys went through before they came here; a call with another rotation is an error."""
        self.turned: str | None = None
        """The same as a text, of a cache that was read from a file: the first call must say it again."""
        self.features: Mapping[str, tuple[tuple[str, int], ...]] = {}
        """The coordinates and sizes of merged features, by ``"k"`` and ``"v"``, as the first call named them."""
        self.remembered: dict[Any, Any] = {}
        """What readers made for this cache, by keys of their own."""

    # what people use

    def append(
        self, k: Tensor, v: Tensor, *, positions: int | Tensor | None = None, lengths: Sequence[int] | None = None
    ) -> None:
        """Adds the tokens of ``k [shared..., n, feature]`` and ``v [shared..., n, value feature]``.

        ``positions``: the first one's, or int64 ``[n]`` or ``[batch, n]``; behind the held ones where absent.
        ``lengths``: how many of the tokens each sequence has, for kinds whose sequences may differ. A failed append
        changes nothing. Raises ``CacheError`` when the cache is full, ``SizeMismatch``, ``DtypeError`` or
        ``DeviceError`` for rows unlike the first ones.
        """
        before = self.snapshot()
        try:
            self.extend(k, v, positions, lengths)
            self.settle()
        except BaseException:
            self.restore(before)
            raise

    @property
    def length(self) -> int:
        """How many tokens were appended and not taken back; the most of any sequence."""
        return self.standing.count

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of storage, unused slots and scales included."""

    @property
    def standing(self) -> Standing:
        """Where the held keys stand; with different lengths, those of the longest sequence."""
        return self.state.standing

    @property
    def storage(self) -> frozenset[str]:
        """What a strategy must be able to read, beside ordinary tensors."""
        return frozenset()

    @property
    def positions(self) -> Tensor:
        """The position of each held key, int64 ``[keys]``, or ``[batch, keys]`` where sequences differ."""
        return self.standing.tensor().clone()

    @property
    def lengths(self) -> Tensor:
        """The length of each sequence, int64 ``[batch]``; one number for a cache without shared coordinates."""
        import torch

        batch = self.rows.shared[0] if self.rows is not None and self.rows.shared else 1
        return torch.full((batch,), self.length, dtype=torch.int64)

    @abstractmethod
    def truncate(self, count: int) -> None:
        """Keeps the first ``count`` tokens. Raises ``CacheError`` for more than there are, and where a kind cannot."""

    @abstractmethod
    def fork(self) -> Self:
        """An independent cache with the same tokens."""

    @abstractmethod
    def reorder(self, index: Tensor | Sequence[int]) -> None:
        """The sequences ``index`` of the first shared coordinate, in this order; some may come twice or not at all."""

    def release(self) -> None:
        """Gives all storage back; the cache is as new."""
        self.state, self.rows, self.seal, self.features = self.fresh(), None, None, {}
        self.turned = None
        self.remembered.clear()

    @abstractmethod
    def record(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What ``save`` writes: settings and counts, and tensors."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the cache to a safetensors file. Raises ``CacheError`` when that package is missing."""
        from .files import save

        save(self, path)

    def __len__(self) -> int:
        return self.length

    def __bool__(self) -> bool:
        return True  # an empty cache is a cache

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.length} tokens, {self.nbytes:,} bytes)"

    # what calls use

    @abstractmethod
    def extend(
        self,
        k: Tensor,
        v: Tensor,
        positions: int | Tensor | None = None,
        lengths: Sequence[int] | None = None,
    ) -> None:
        """The first step of an append; an exception may leave a state to ``restore`` from."""

    @abstractmethod
    def fresh(self) -> Any:
        """The state of a cache that holds nothing."""

    def snapshot(self) -> Any:
        """All that an append changes, as it is now."""
        return self.state, self.rows, self.seal, self.features

    def restore(self, saved: Any) -> None:
        """All as it was."""
        self.state, self.rows, self.seal, self.features = saved

    def held(self, count: int, lengths: Sequence[int] | None = None) -> int:
        """How many keys a call sees that appends ``count`` tokens."""
        del lengths
        return self.standing.count + count

    def following(self, count: int) -> int | Tensor:
        """Where ``count`` more tokens stand, as ``Standing.next``."""
        return self.standing.next(count)

    def settle(self) -> None:  # noqa: B027 - most kinds have nothing to let go of
        """Keeps what was extended."""

    @abstractmethod
    def view(self) -> View:
        """What a call reads now. Raises ``CacheError`` when nothing was ever appended."""

    def accept(self, k: Tensor, v: Tensor, lengths: object = None) -> Rows:
        """The rows of an append, checked against those before; ``lengths`` must be None."""
        if lengths is not None:
            raise CacheError(
                f"lengths = {lengths!r:.80}: the sequences of a {self.kind} cache have one length.\n"
                "  A paged cache holds sequences of different lengths: qkv.cache.Paged(pool)."
            )
        given = Rows.of(k, v)
        if self.rows is None:
            return given
        for name, have, want in (
            ("the shared coordinates", given.shared, self.rows.shared),
            ("the feature of k", given.feature_size, self.rows.feature_size),
            ("the feature of v", given.value_size, self.rows.value_size),
        ):
            if have != want:
                raise SizeMismatch(
                    f"append: {name} have the size {have}, and the cache holds {want}.\n"
                    "  A cache serves one layer and one batch; reorder(index) changes the batch."
                )
        if given.dtype != self.rows.dtype:
            raise DtypeError(
                f"append: k is {given.dtype}, and the cache holds {self.rows.dtype}.\n"
                "  Convert it, or begin a cache of that type."
            )
        if given.device != self.rows.device:
            raise DeviceError(
                f"append: k is on {given.device}, and the cache on {self.rows.device}.\n  Move it: k.to(...)."
            )
        return given

    def adopt(self, twin: Self) -> Self:
        """``twin`` with what belongs to this cache and is no state."""
        twin.rows, twin.seal, twin.features, twin.turned = self.rows, self.seal, self.features, self.turned
        return twin

    def sequences(self, index: Tensor | Sequence[int]) -> Tensor:
        """``index`` as int64, checked against the first shared coordinate."""
        import torch

        if self.rows is None or not self.rows.shared:
            raise CacheError(
                f"reorder: the {self.kind} cache has no sequences to choose from.\n"
                "  Its keys need a shared coordinate, and a first append."
            )
        chosen = torch.as_tensor(index)
        size = self.rows.shared[0]
        whole = not (chosen.dtype.is_floating_point or chosen.dtype.is_complex or chosen.dtype == torch.bool)
        if chosen.dim() != 1 or not whole or (chosen.numel() and not bool(((chosen >= 0) & (chosen < size)).all())):
            raise CacheError(
                f"reorder: index = {index!r:.80} does not choose among {size} sequences.\n"
                f"  Give a list of numbers from 0 to {size - 1}."
            )
        return chosen.to(device=self.rows.device, dtype=torch.int64)

    def empty(self, what: str) -> CacheError:
        """The error for a cache that was never appended to."""
        return CacheError(f"{what}: the {self.kind} cache is empty.\n  Append first: spec(q, k, v, cache=cache).")


def _shown(x: object) -> str:
    return str(getattr(x, "dtype", type(x).__name__))
