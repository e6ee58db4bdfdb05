"""Pages that several sequences begin with: known by their token ids, or found by their bytes.

It knows tables and a pool's names for pages; it refuses to know how pages are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .pool import PagePool

Table = tuple[tuple[int, ...], ...]
"""The pages of each sequence."""


def publish(pool: PagePool, table: Table, lengths: Sequence[int], ids: Sequence[tuple[int, ...]], about: Any) -> None:
    """Makes the full pages of each sequence known by the token ids of their whole prefix."""
    size = pool.page_size
    for row, each, length in zip(table, ids, lengths, strict=True):
        before = 0
        for n in range(min(len(each), length) // size):
            before = pool.name(row[n], (before, each[n * size : (n + 1) * size]), about)


def known(pool: PagePool, tokens: Sequence[Sequence[int]]) -> tuple[Table, Any]:
    """The pages that are known by prefixes of these token ids, always fewer than all tokens need, and what was said
    about them when they were published, which is the same of all.
    """
    size, table, about = pool.page_size, list[tuple[int, ...]](), None
    for each in tokens:
        ids, row, before = tuple(int(n) for n in each), list[int](), 0
        while (len(row) + 1) * size < len(ids):
            found = pool.by_tokens.get((before, ids[len(row) * size : (len(row) + 1) * size]))
            if found is None or (about is not None and found.seal != about):
                break
            about, before = found.seal, found.number
            row.append(found.page)
        table.append(tuple(row))
    return tuple(table), about


def shared(pool: PagePool, table: Table, lengths: Sequence[int]) -> tuple[Table, int]:
    """The table with full pages replaced by ones with the same bytes behind the same prefix, and how many were."""
    size, made, count = pool.page_size, list[tuple[int, ...]](), 0
    for row, length in zip(table, lengths, strict=True):
        before, chain, pages = -1, b"", list(row)
        for n in range(length // size):
            chain = pool.digest(chain, pool.contents(pages[n]))
            found = pool.same(pages[n], before, chain)
            if found != pages[n]:
                pool.hold([found])
                pool.give([pages[n]])
                pages[n], count = found, count + 1
            before = found
        made.append(tuple(pages))
    return tuple(made), count
