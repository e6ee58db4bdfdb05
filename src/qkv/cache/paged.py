"""The paged cache: each sequence's tokens in pages of a pool, found by a table.

Forks and chosen sequences share pages, which are copied when somebody appends to them. Sequences may have different
lengths. This module knows tables and lengths; the pool knows pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from ..errors import CacheError, SpecError
from ..terms.expr import Captured
from . import prefixes
from .codec import encode
from .pool import PagePool
from .prefixes import Table
from .protocol import Cache, Rows, View
from .slots import Slots
from .standing import NOWHERE, Standing
from .stored import Stored

if TYPE_CHECKING:
    from torch import Tensor


FEW = 2
"""So few sequences are written page by page; the tokens of more are written together."""

LEAST_PAGES = 8
"""Columns of the smallest table of pages."""


@dataclass(frozen=True, slots=True)
class State:
    """The pages and the length of each sequence, and the lengths before the newest tokens."""

    table: Table = ()
    lengths: tuple[int, ...] = ()
    begins: tuple[int, ...] = ()
    standing: Standing = NOWHERE

    @property
    def uneven(self) -> bool:
        """Whether sequences differ in length, or did before the newest tokens."""
        return len(set(self.lengths)) > 1 or len(set(self.begins)) > 1


class Paged(Cache):
    """Sequences in pages of ``pool``, along the first shared coordinate, the batch.

    ``fork``, ``reorder`` and ``together`` copy no page: appending to a shared one copies it then. ``lengths=`` of a
    call says how many of the new tokens each sequence has, the others being padding on the right. ``publish(tokens)``
    makes full pages known by their token ids, and ``reuse(tokens)`` begins a new cache with those of the same prefix;
    ``share()`` finds pages with equal bytes.

    >>> import qkv, torch
    >>> cache = qkv.cache.Paged(qkv.cache.PagePool(page_size=4))
    >>> cache.append(torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8))
    >>> twin = cache.fork()
    >>> cache.pool.num_used
    2
    """

    kind: ClassVar[str] = "paged"

    def __init__(self, pool: PagePool | None = None) -> None:
        if pool is not None and not isinstance(pool, PagePool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SpecError(f"Paged: pool = {pool!r:.80}.\n  Give a pool: qkv.cache.PagePool(page_size=64).")
        super().__init__()
        self.pool = PagePool() if pool is None else pool
        self.state: State = self.fresh()
        self._taken: list[int] = []
        self._dropped: list[int] = []
        self._pages: tuple[Table, Tensor] | None = None
        self._counts: Captured | None = None

    def fresh(self) -> State:
        """Nothing held."""
        return State()

    @property
    def length(self) -> int:
        """The tokens of the longest sequence."""
        return max(self.state.lengths, default=0)

    @property
    def lengths(self) -> Tensor:
        """The tokens of each sequence."""
        import torch

        return torch.tensor(self.state.lengths, dtype=torch.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of the pages that it holds, shared ones included."""
        return len({page for row in self.state.table for page in row}) * self.pool.page_bytes

    @property
    def storage(self) -> frozenset[str]:
        """Pages, perhaps of codes."""
        return frozenset({"paged"} if self.pool.bits is None else {"paged", "quantized"})

    def held(self, count: int, lengths: Sequence[int] | None = None) -> int:
        """The longest sequence afterwards."""
        if lengths is None:
            return self.length + count
        before = self.state.lengths or (0,) * len(lengths)
        return max((a + int(b) for a, b in zip(before, lengths, strict=False)), default=0)

    def following(self, count: int) -> int | Tensor:
        """Behind the end of each sequence."""
        import torch

        if len(set(self.state.lengths)) <= 1:
            return self.state.standing.next(count)
        return self.lengths.unsqueeze(-1) + torch.arange(count)

    def extend(
        self,
        k: Tensor,
        v: Tensor,
        positions: int | Tensor | None = None,
        lengths: Sequence[int] | None = None,
    ) -> None:
        """Writes behind each sequence's end: into its last page, or a copy of it where others hold it, and new ones."""
        rows = self.accept(k, v)
        if not rows.shared:
            raise CacheError(
                "append: a paged cache holds sequences, and k has no shared coordinate.\n"
                "  Give it a batch: b j d, with one sequence if there is one."
            )
        self.pool.accept(rows)
        count = k.shape[-2]
        new = self._new(rows.shared[0], count, lengths)
        before = self.state.lengths or (0,) * rows.shared[0]
        after = tuple(a + n for a, n in zip(before, new, strict=True))
        standing = self._standing(before, after, count, positions)
        table = self._room(rows, k, v, before, after)
        self._write(table, before, new, k, v)
        self.rows = rows
        self.state = State(table, after, before, standing)

    def _new(self, batch: int, count: int, lengths: Sequence[int] | None) -> tuple[int, ...]:
        if lengths is None:
            return (count,) * batch
        given = getattr(lengths, "tolist", lambda: list(lengths))()
        good = len(given) == batch and all(
            isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= count for n in given
        )
        if not good:
            raise CacheError(
                f"lengths = {given}: each of {batch} sequences has from 0 to {count} of the new tokens.\n"
                "  Give one number for each sequence; tokens behind it are padding."
            )
        return tuple(given)

    def _standing(
        self, before: tuple[int, ...], after: tuple[int, ...], count: int, positions: int | Tensor | None
    ) -> Standing:
        even = len(set(before)) <= 1 and len(set(after)) <= 1
        if even:
            return self.state.standing.extended(after[0] - before[0] if after else count, positions)
        plain = positions is None and self.state.standing.given is None and self.state.standing.first == 0
        if not plain:
            raise CacheError(
                "positions are given, and the sequences of the paged cache differ in length.\n"
                "  Sequences of different lengths count their own tokens from 0: leave positions out."
            )
        return Standing(max(after))

    def _room(self, rows: Rows, k: Tensor, v: Tensor, before: tuple[int, ...], after: tuple[int, ...]) -> Table:
        """The table with pages for all tokens, none of which anybody else holds where tokens are written."""
        pool, size = self.pool, self.pool.page_size
        old = self.state.table or ((),) * len(after)
        copied = [
            a < b and a % size != 0 and pool.references[row[-1]] > 1
            for row, a, b in zip(old, before, after, strict=True)
        ]
        needed = [-(-b // size) - len(row) + c for row, b, c in zip(old, after, copied, strict=True)]
        pool.ensure(sum(needed), rows, k, v)
        table: list[tuple[int, ...]] = []
        for row, begin, end, copy, more in zip(old, before, after, copied, needed, strict=True):
            if copy:
                page = self._take()
                pool.copy(row[-1], page)
                self._dropped.append(row[-1])
                row, more = (*row[:-1], page), more - 1
            elif begin < end and begin % size != 0:
                pool.forget(row[-1])
            table.append((*row, *(self._take() for _ in range(more))) if copy or more else row)
        # the same object while its pages are the same, so that its tensor stays
        return old if self.state.table and all(a is b for a, b in zip(old, table, strict=True)) else tuple(table)

    def _take(self) -> int:
        page = self.pool.take()
        self._taken.append(page)
        return page

    def _write(self, table: Table, before: tuple[int, ...], new: tuple[int, ...], k: Tensor, v: Tensor) -> None:
        import torch

        size = self.pool.page_size
        if len(new) <= FEW or sum(new) > size * len(new):
            for row, begin, n, element in zip(table, before, new, range(len(new)), strict=True):
                for slots, x in zip(self.pool.both() if n else (), (k[element], v[element]), strict=bool(n)):
                    _put_run(slots, row, begin, x.narrow(-2, 0, n), size)
            return
        places = [(b, t, *divmod(before[b] + t, size)) for b, n in enumerate(new) for t in range(n)]
        if not places:
            return
        index = torch.tensor([(b, t, table[b][page], slot) for b, t, page, slot in places], device=k.device)
        batch, token, page, slot = index.unbind(-1)
        for slots, x in zip(self.pool.both(), (k, v), strict=True):
            _put(slots, page, slot, x.movedim(-2, 1)[batch, token])

    def fill(self, rows: Rows, keys: Slots, values: Slots, lengths: tuple[int, ...], standing: Standing) -> None:
        """Takes stored rows ``[batch, shared..., slot, width]`` as they are into new pages; the cache was empty."""
        import torch

        before = (0,) * len(lengths)
        like = [torch.empty((1, x.feature_size), dtype=rows.dtype, device=rows.device) for x in (keys, values)]
        self.pool.accept(rows)
        try:
            table = self._room(rows, like[0], like[1], before, lengths)
            for row, length, n in zip(table, lengths, range(len(lengths)), strict=True):
                for target, source in zip(self.pool.both() if row else (), (keys, values), strict=bool(row)):
                    _copy_row(target, source.at(n), row, length, self.pool.page_size)
        except BaseException:
            self.restore((self.state, self.rows, self.seal, self.features))
            raise
        self.settle()
        self.state, self.rows = State(table, lengths, lengths, standing), rows

    def settle(self) -> None:
        """Lets go of pages that were copied."""
        self.pool.give(self._dropped)
        self._taken, self._dropped = [], []

    def restore(self, saved: Any) -> None:
        """Gives the new pages back."""
        self.pool.give(self._taken)
        self._taken, self._dropped = [], []
        super().restore(saved)

    def view(self) -> View:
        """Pages by a table."""
        if self.rows is None or not self.state.table:
            raise self.empty("spec(q, cache=)")
        state, device = self.state, self.rows.device
        pages = self._table()
        lengths = self._lengths_table() if state.uneven else None
        stored = [
            Stored(
                slots.data,
                slots.scale,
                slots.bits,
                0,
                state.standing.count,
                pages,
                self.pool.page_size,
                None if lengths is None else lengths.tensor,
                slots.feature_size,
                slots.working_dtype,
            )
            for slots in self.pool.both()
        ]
        begins = None
        if lengths is not None:
            import torch

            begins = torch.tensor(state.begins, dtype=torch.int64, device=device)
        return View(stored[0], stored[1], state.standing, lengths, begins)

    def reading(self) -> tuple[Slots, Slots, Tensor] | None:
        """Keys, values and the table of pages; None for a cache without tokens, and for sequences of several lengths,
        which are read with a mask.
        """
        state, pool = self.state, self.pool
        if self.rows is None or pool.keys is None or pool.values is None or not state.standing.count or state.uneven:
            return None
        return pool.keys, pool.values, self._table()

    def _table(self) -> Tensor:
        import torch

        device = None if self.rows is None else self.rows.device
        if self._pages is None or self._pages[0] is not self.state.table:
            most = max(LEAST_PAGES, *(len(row) for row in self.state.table))
            most = 1 << (most - 1).bit_length()  # its strides change seldom, as readers remember them
            padded = [[*row, *[0] * (most - len(row))] for row in self.state.table]
            self._pages = (self.state.table, torch.tensor(padded, dtype=torch.int32, device=device))
        return self._pages[1]

    def _lengths_table(self) -> Captured:
        """One tensor for as long as the batch stays, so that a mask that reads it is made once."""
        import torch

        values = torch.tensor(
            self.state.lengths, dtype=torch.int64, device=None if self.rows is None else self.rows.device
        )
        if self._counts is None or self._counts.tensor.shape != values.shape:
            self._counts = Captured(values, "lengths")
            self.remembered.clear()
        else:
            self._counts.tensor.copy_(values)
        return self._counts

    def truncate(self, count: int | Sequence[int]) -> None:
        """Keeps the first ``count`` tokens of each sequence; one number for all, or one for each."""
        state = self.state
        each: list[Any] = [count] * len(state.lengths) if isinstance(count, int) else list(count)
        limits = [self.length] * len(each) if isinstance(count, int) else list(state.lengths)
        sound = len(each) == len(state.lengths) and all(
            isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= most
            for n, most in zip(each, limits, strict=False)
        )
        if not sound or (not each and count != 0):
            raise CacheError(
                f"truncate({count!r}): the sequences of the paged cache have {list(state.lengths)} tokens.\n"
                "  Give how many of them to keep, one number for all or one for each."
            )
        self._cut([min(n, have) for n, have in zip(each, state.lengths, strict=True)])

    def _cut(self, lengths: Sequence[int]) -> None:
        size, state = self.pool.page_size, self.state
        table: list[tuple[int, ...]] = []
        gone: list[int] = []
        for row, length in zip(state.table, lengths, strict=True):
            pages = -(-length // size)
            table.append(row[:pages])
            gone += row[pages:]
        standing = state.standing.cut(max(lengths, default=0))
        if (standing.given is not None or standing.first) and len(set(lengths)) > 1:
            raise CacheError(
                "truncate: positions were given, and the sequences would differ in length.\n"
                "  Keep as many tokens of each."
            )
        self.state = State(tuple(table), tuple(lengths), tuple(lengths), standing)
        self.pool.give(gone)

    def fork(self) -> Self:
        """The same pages, held once more."""
        twin = type(self)(self.pool)
        twin.state = replace(self.state, begins=self.state.lengths)
        self.pool.hold([page for row in self.state.table for page in row])
        return self.adopt(twin)

    def reorder(self, index: Tensor | Sequence[int]) -> None:
        """The chosen sequences' pages, held as often as they were chosen."""
        chosen = self.sequences(index)
        listed = cast("list[int]", chosen.tolist())  # pyright: ignore[reportUnknownMemberType]
        state = self.state
        table = tuple(state.table[n] for n in listed)
        lengths = tuple(state.lengths[n] for n in listed)
        standing = state.standing.chosen(chosen).cut(max(lengths, default=0))
        self.pool.hold([page for row in table for page in row])
        self.pool.give([page for row in state.table for page in row])
        self.state = State(table, lengths, lengths, standing)
        self.rows = None if self.rows is None else replace(self.rows, shared=(len(listed), *self.rows.shared[1:]))

    def release(self) -> None:
        """Gives all pages back to the pool."""
        self.pool.give([page for row in self.state.table for page in row])
        super().release()

    def __del__(self) -> None:
        if hasattr(self, "pool") and hasattr(self, "state"):
            self.pool.give([page for row in self.state.table for page in row])

    @classmethod
    def together(cls, caches: Sequence[Self]) -> Self:
        """One cache with the sequences of several of one pool, which keep theirs: pages are shared."""
        if not caches or any(c.pool is not caches[0].pool for c in caches):
            raise CacheError("together: the caches are not of one pool.\n  Make them with the same PagePool.")
        first = caches[0]
        if any(c.standing.given is not None or c.standing.first for c in caches):
            raise CacheError("together: positions were given to one of the caches.\n  Their tokens count from 0.")
        if any(c.seal != first.seal for c in caches) or any(c.rows is None for c in caches):
            raise CacheError("together: one of the caches is empty, or turned otherwise.\n  Append to each first.")
        made = cls(first.pool)
        table = tuple(row for c in caches for row in c.state.table)
        lengths = tuple(n for c in caches for n in c.state.lengths)
        first.pool.hold([page for row in table for page in row])
        made.state = State(table, lengths, lengths, Standing(max(lengths)))
        first.adopt(made)
        made.rows = None if first.rows is None else replace(first.rows, shared=(len(table), *first.rows.shared[1:]))
        return made

    def publish(self, tokens: Sequence[Sequence[int]]) -> None:
        """Makes full pages known by the token ids of their whole prefix; ``tokens``: ids of each sequence from its
        start.
        """
        self._check_plain("publish")
        ids = self._ids("publish", tokens)
        prefixes.publish(self.pool, self.state.table, self.state.lengths, ids, (self.seal, self.features))

    def reuse(self, tokens: Sequence[Sequence[int]]) -> list[int]:
        """Begins with the pages that are known by prefixes of these token ids; returns how many tokens of each sequence
        it holds then, always fewer than were given, so that a query is left.
        """
        if self.state.table:
            raise CacheError("reuse: the paged cache holds tokens.\n  Only an empty one can begin with known pages.")
        pool, size = self.pool, self.pool.page_size
        table, about = prefixes.known(pool, tokens)
        lengths = tuple(len(row) * size for row in table)
        if any(lengths) and pool.rows is not None:
            pool.hold([page for row in table for page in row])
            self.state = State(table, lengths, lengths, Standing(max(lengths)))
            self.rows = replace(pool.rows, shared=(len(table), *pool.rows.shared[1:]))
            self.seal, self.features = about
        return list(lengths)

    def share(self) -> int:
        """Replaces full pages by ones with the same bytes behind the same prefix; returns how many."""
        self._check_plain("share")
        table, count = prefixes.shared(self.pool, self.state.table, self.state.lengths)
        self.state = replace(self.state, table=table)
        return count

    def _check_plain(self, what: str) -> None:
        if self.standing.given is not None or self.standing.first:
            raise CacheError(
                f"{what}: positions were given to this cache, and pages are shared by tokens counted from 0.\n"
                "  Leave positions out."
            )

    def _ids(self, what: str, tokens: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        listed = [tuple(int(n) for n in each) for each in tokens]
        if len(listed) != len(self.state.table):
            raise CacheError(
                f"{what}: token ids of {len(listed)} sequences, and the cache holds {len(self.state.table)}.\n"
                "  Give a list of ids for each sequence."
            )
        return listed

    def record(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The tokens of all sequences side by side, zeros behind each end."""
        settings: dict[str, Any] = {
            "page_size": self.pool.page_size,
            "num_pages": self.pool.num_pages,
            "bits": self.pool.bits,
            "lengths": list(self.state.lengths),
        }
        tensors: dict[str, Tensor] = {}
        if self.rows is not None and self.state.table:
            view = self.view()
            for name, stored in (("keys", view.keys), ("values", view.values)):
                if isinstance(stored, Stored):
                    data, scale = stored.raw()
                    tensors[name] = data
                    if scale is not None:
                        tensors[f"{name}.scale"] = scale
            if self.standing.given is not None:
                tensors["positions"] = self.standing.given
        return settings, tensors


def _put(slots: Slots, page: Tensor, slot: Tensor, rows: Tensor) -> None:
    """Writes ``rows [n, shared..., feature]`` into slot ``slot[n]`` of page ``page[n]``."""
    if slots.bits is None or slots.scale is None:
        slots.data.movedim(-2, 1)[page, slot] = rows
        return
    codes, scale = encode(rows, slots.bits)
    slots.data.movedim(-2, 1)[page, slot] = codes
    slots.scale.movedim(-1, 1)[page, slot] = scale


def _put_run(slots: Slots, pages: tuple[int, ...], begin: int, rows: Tensor, size: int) -> None:
    """Writes ``rows [shared..., n, feature]`` into the slots of one sequence from ``begin`` on, page by page."""
    done, count = 0, rows.shape[-2]
    while done < count:
        page, slot = divmod(begin + done, size)
        n = min(size - slot, count - done)
        slots.at(pages[page]).put(slot, rows.narrow(-2, done, n))
        done += n


def _copy_row(target: Slots, source: Slots, pages: tuple[int, ...], length: int, size: int) -> None:
    """The first ``length`` slots of a sequence into its pages, codes as they are."""
    for n, page in enumerate(pages):
        count = min(size, length - n * size)
        target.data[page].narrow(-2, 0, count).copy_(source.data.narrow(-2, n * size, count))
        if target.scale is not None and source.scale is not None:
            target.scale[page].narrow(-1, 0, count).copy_(source.scale.narrow(-1, n * size, count))
