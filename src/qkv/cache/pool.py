"""A pool of pages for many sequences: reference counts, free pages, and prefixes that sequences share.

A page holds ``page_size`` tokens of keys and values. It is written by one owner only: whoever appends to a page that
somebody else holds too copies it first. This module knows pages; it refuses to know sequences.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import CacheError, DeviceError, DtypeError, InternalError, SizeMismatch
from . import memory
from .dense import checked_bits, whole
from .slots import Slots

if TYPE_CHECKING:
    from torch import Tensor

    from .protocol import Rows

LEAST = 8
"""Pages of a first allocation that is left to grow."""

Prefix = tuple[int, tuple[int, ...]]
"""The number of the known prefix before (0 for none) and the token ids of a page: equal prefixes have equal chains."""


@dataclass(frozen=True, slots=True)
class KnownPage:
    """A full page that is known by the token ids of its prefix; ``number`` is given to one prefix only, ever."""

    page: int
    number: int
    seal: object


def digest(before: bytes, page: Sequence[Tensor]) -> bytes:
    """The chained hash of a page: of the one before it and of every byte of its keys and values."""
    import torch

    made = hashlib.blake2b(before, digest_size=16)
    for part in page:
        made.update(part.contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return made.digest()


class PagePool:
    """Pages of ``page_size`` tokens, ``num_pages`` of them at most, or as many as fit in memory.

    One pool serves one layer: all its sequences have the same heads, feature sizes, type and device. ``bits``: 8 or 4
    to hold codes, as ``Quantized``. ``nbytes`` and ``num_used`` say what it takes.

    >>> import qkv, torch
    >>> pool = qkv.cache.PagePool(page_size=16)
    >>> cache = qkv.cache.Paged(pool)
    >>> cache.append(torch.randn(2, 4, 20, 8), torch.randn(2, 4, 20, 8))
    >>> pool.num_used
    4
    """

    def __init__(self, page_size: int = 64, *, num_pages: int | None = None, bits: int | None = None) -> None:
        self.page_size = whole("PagePool", "page_size", page_size)
        self.num_pages = None if num_pages is None else whole("PagePool", "num_pages", num_pages)
        self.bits = None if bits is None else checked_bits("PagePool", bits)
        self.keys: Slots | None = None
        self.values: Slots | None = None
        self.rows: Rows | None = None
        self.references: list[int] = []
        self.free: list[int] = []
        self.digest: Callable[[bytes, Sequence[Tensor]], bytes] = digest
        self.by_tokens: dict[Prefix, KnownPage] = {}
        self.numbered = 0
        self.by_content: dict[tuple[int, bytes], int] = {}
        self.names: dict[int, list[Prefix | tuple[int, bytes]]] = {}
        """Under which names a page can be found."""

    @property
    def num_used(self) -> int:
        """How many pages somebody holds."""
        return len(self.references) - len(self.free)

    @property
    def nbytes(self) -> int:
        """Bytes of all pages, used or not."""
        return sum(x.nbytes for x in (self.keys, self.values) if x is not None)

    @property
    def page_bytes(self) -> int:
        """Bytes of one page."""
        return self.nbytes // len(self.references) if self.references else 0

    def __repr__(self) -> str:
        return f"PagePool({self.num_used} of {len(self.references)} pages of {self.page_size} tokens)"

    def accept(self, rows: Rows) -> None:
        """Checks rows against those of the pool, which the first ones settle."""
        if self.rows is None:
            return
        for name, have, want in (
            ("shared coordinates beside the batch", rows.shared[1:], self.rows.shared[1:]),
            ("features of k", rows.feature_size, self.rows.feature_size),
            ("features of v", rows.value_size, self.rows.value_size),
        ):
            if have != want:
                raise SizeMismatch(
                    f"append: {name} have the size {have}, and the pool's pages {want}.\n"
                    "  One pool serves one layer; make another: qkv.cache.PagePool()."
                )
        if rows.dtype != self.rows.dtype:
            raise DtypeError(
                f"append: k is {rows.dtype}, and the pool's pages {self.rows.dtype}.\n"
                "  Convert it, or make another pool."
            )
        if rows.device != self.rows.device:
            raise DeviceError(
                f"append: k is on {rows.device}, and the pool on {self.rows.device}.\n  Move it, or make another pool."
            )

    def ensure(self, count: int, rows: Rows, k: Tensor, v: Tensor) -> None:
        """Room for ``count`` more pages. Raises ``CacheError`` when the pool may not hold as many."""
        have, lacking = len(self.references), count - len(self.free)
        if lacking <= 0:
            return
        if self.num_pages is not None and have + lacking > self.num_pages:
            raise CacheError(
                f"append: {count} pages are needed, and {self.num_pages - self.num_used} of the pool's "
                f"{self.num_pages} are free.\n  Release or truncate sequences, or make a larger pool."
            )
        most = self.num_pages
        total = max(have + lacking, 2 * have, LEAST) if most is None else most
        keys, values = (_more(old, total, rows, x, self) for old, x in ((self.keys, k), (self.values, v)))
        self.keys, self.values, self.rows = keys, values, rows
        self.free = [*range(total - 1, have - 1, -1), *self.free]
        self.references += [0] * (total - have)

    def take(self) -> int:
        """A page with one reference, of those that ``ensure`` made room for."""
        if not self.free:
            raise InternalError("a page was taken that nobody made room for; please report this")
        page = self.free.pop()
        self.references[page] = 1
        return page

    def hold(self, pages: Sequence[int]) -> None:
        """One more reference to each."""
        for page in pages:
            self.references[page] += 1

    def give(self, pages: Sequence[int]) -> None:
        """One reference less to each; without one a page is free."""
        for page in pages:
            self.references[page] -= 1
            if self.references[page] == 0:
                self.forget(page)
                self.free.append(page)

    def copy(self, source: int, target: int) -> None:
        """The bytes of one page into another."""
        for slots in self.both():
            slots.data[target].copy_(slots.data[source])
            if slots.scale is not None:
                slots.scale[target].copy_(slots.scale[source])

    def both(self) -> tuple[Slots, Slots]:
        """Keys and values."""
        if self.keys is None or self.values is None:
            raise InternalError("a page was read before there was one; please report this")
        return self.keys, self.values

    def contents(self, page: int) -> list[Tensor]:
        """Every tensor of a page."""
        found: list[Tensor] = []
        for slots in self.both():
            found += [slots.data[page]] + ([] if slots.scale is None else [slots.scale[page]])
        return found

    def name(self, page: int, tokens: Prefix, seal: object) -> int:
        """Makes a full page known by its prefix of token ids; the number of that prefix."""
        if tokens not in self.by_tokens:
            self.numbered += 1
            self.by_tokens[tokens] = KnownPage(page, self.numbered, seal)
            self.names.setdefault(page, []).append(tokens)
        return self.by_tokens[tokens].number

    def same(self, page: int, before: int, chain: bytes) -> int:
        """A full page with the same bytes behind the same page, or this one, which is known by them from now on.

        The hash only finds a candidate: every byte is compared.
        """
        import torch

        key = (before, chain)
        found = self.by_content.get(key)
        if found is None:
            self.by_content[key] = page
            self.names.setdefault(page, []).append(key)
            return page
        equal = all(
            torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
            for a, b in zip(self.contents(found), self.contents(page), strict=True)
        )
        return found if equal else page

    def forget(self, page: int) -> None:
        """The page is known by no name any more: its contents change."""
        for name in self.names.pop(page, ()):
            if isinstance(name[1], bytes):
                self.by_content.pop((name[0], name[1]), None)
            else:
                self.by_tokens.pop((name[0], name[1]), None)


def _more(old: Slots | None, total: int, rows: Rows, like: Tensor, pool: PagePool) -> Slots:
    """``total`` pages, the first of them copied from ``old``."""
    if old is None:
        return Slots.room((total, *rows.shared[1:]), pool.page_size, like, pool.bits)
    data = memory.allocate((total, *old.data.shape[1:]), old.data.dtype, old.device)
    data[: old.data.shape[0]].copy_(old.data)
    scale = None
    if old.scale is not None:
        scale = memory.allocate((total, *old.scale.shape[1:]), old.scale.dtype, old.device)
        scale[: old.scale.shape[0]].copy_(old.scale)
    return replace(old, data=data, scale=scale)
