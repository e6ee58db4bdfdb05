"""Plain boolean masks by name: what is kept, written as one comparison of positions each.

Knows positions and lengths. Refuses to know qkv's terms: these masks judge them, so they are written a second time,
the slow and obvious way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from qkv.errors import SpecError

Align = Literal["start", "end"]

#: keys that ``window`` keeps, the query's own included
WINDOW = 5


def make_keep(
    name: str, batch: int, query_length: int, key_length: int, *, align: Align = "end", seed: int = 0
) -> Tensor:
    """The mask of the given name, True where a key is kept.

    Coordinates: the result is [b, 1, i, j], bool, on the CPU; the mask is the same for every head.
    Edges: lengths may be 0. ``align`` says where the queries stand: the first query at the first key (``start``) or the
    last at the last (``end``). ``dead rows`` keeps nothing for every third query and for the whole first batch entry.
    Raises: SpecError for an unknown name.

    >>> make_keep("causal", 1, 2, 3)[0, 0].int().tolist()
    [[1, 1, 0], [1, 1, 1]]
    """
    if name not in _MASKS:
        raise SpecError(f'there is no mask "{name}".\n    masks: {", ".join(MASKS)}')
    first = key_length - query_length if align == "end" else 0
    query = torch.arange(query_length)[:, None] + first
    key = torch.arange(key_length)[None, :]
    generator = torch.Generator().manual_seed(seed)
    keep = _MASKS[name](query, key, batch, generator)
    return keep.expand(batch, 1, query_length, key_length).contiguous()


def _full(query: Tensor, key: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    return torch.ones(query.shape[0], key.shape[1], dtype=torch.bool)


def _causal(query: Tensor, key: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    return key <= query


def _window(query: Tensor, key: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    return (key <= query) & (key > query - WINDOW)


def _prefix(query: Tensor, key: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    return (key <= query) | (key < key.shape[1] // 3)


def _padding(query: Tensor, key: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    """Every batch entry has its own length, at least one key where there is one; padding on the right."""
    key_length = key.shape[1]
    lengths = torch.randint(1, key_length + 1, (batch, 1, 1, 1), generator=generator) if key_length else torch.zeros(1)
    return (key < lengths) & torch.ones_like(query, dtype=torch.bool)


def _documents(query: Tensor, key: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    """Causal inside documents of 7 tokens; the border differs in every batch entry."""
    shift = torch.arange(batch)[:, None, None, None]
    return ((query + shift) // 7 == (key + shift) // 7) & (key <= query)


def _random(query: Tensor, key: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    return torch.rand(batch, 1, query.shape[0], key.shape[1], generator=generator) < 0.5


def _dead_rows(query: Tensor, key: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    row = torch.arange(query.shape[0])[:, None]
    entry = torch.arange(batch)[:, None, None, None]
    return (row % 3 != 0) & (entry > 0) & torch.ones_like(key, dtype=torch.bool)


_MASKS: dict[str, Callable[[Tensor, Tensor, int, torch.Generator], Tensor]] = {
    "full": _full,
    "causal": _causal,
    "window": _window,
    "prefix": _prefix,
    "padding": _padding,
    "documents": _documents,
    "random": _random,
    "dead rows": _dead_rows,
}

#: the names that :func:`make_keep` knows
MASKS: tuple[str, ...] = tuple(_MASKS)
