"""What a mask of transformers says, as data: a function of positions, a padding table, and where queries and keys
stand.

Knows how to record it as a ``keep`` term and how to have transformers write it out. Refuses to know that models take
the object for a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any, cast

import torch
from torch import Tensor

import qkv

from ..errors import ModelError
from . import hf

MaskFunction = Callable[[Any, Any, Any, Any], Any]
"""transformers' kind of mask: (batch, head, query position, key position) -> whether the key is kept."""


@dataclass(slots=True)
class Rule:
    """What a mask keeps: keys that ``function`` keeps at these positions and that ``padding`` [batch, position] says
    are there.

    ``keep`` is the term, None when every key is kept; ``captures`` tells that it holds tensors of this batch. ``specs``
    belongs to the attention function, which keeps there what it has built, so that all layers of one forward pass share
    it.
    """

    function: MaskFunction
    padding: Tensor | None
    batch_size: int
    num_queries: int
    num_keys: int
    query_offset: int
    key_offset: int
    device: torch.device
    dtype: torch.dtype
    vmap: bool = False
    part: bool = False
    edited: bool = False
    keep: qkv.Keep | None = None
    captures: bool = False
    specs: dict[Any, Any] = field(default_factory=dict[Any, Any])
    written: Tensor | None = None

    @property
    def positions(self) -> dict[str, int]:
        """Where the first query and the first key stand."""
        return {"i": self.query_offset, "j": self.key_offset}

    def recorded(self) -> Rule:
        """The same rule with its term. Raises ``TraceError`` or ``LimitError`` for a function that cannot be one."""
        term = self._of_function()
        there, captures = self._of_padding()
        keep = there if term is None else term if there is None else term & there
        return replace(self, keep=keep, captures=captures or holds_tensor(self.function), specs={})

    def _of_function(self) -> qkv.Keep | None:
        if self.function is hf.masking.causal_mask_function:
            # In a decoding step every key stands at or before the query, and nothing is left to ask.
            return None if self.key_offset + self.num_keys - 1 <= self.query_offset else qkv.causal()
        if self.function is hf.masking.bidirectional_mask_function:
            return None

        def by_position(b: Any, i: Any, j: Any) -> Any:
            return self.function(b, 0, i, j)  # transformers makes masks for one head, which stands for all

        return qkv.keep(by_position)

    def _of_padding(self) -> tuple[qkv.Keep | None, bool]:
        """What the padding keeps, and whether it holds a tensor of this batch."""
        if self.padding is None:
            return None, False
        here = self.padding[:, self.key_offset : self.key_offset + self.num_keys]
        first = _left_padded(here)
        if first is not None:
            from_there = tuple(self.key_offset + n if n else 0 for n in first)
            return _from(from_there, here.device) if any(first) else None, False
        return qkv.padding(here, "1 j" if here.shape[0] == 1 < self.batch_size else "b j"), True

    def dense(self) -> Tensor:
        """The mask [batch, 1, query, key] as eager attention adds it: 0 for kept, the type's minimum for dropped keys.

        Made by transformers' own code from the same function, and kept.
        """
        if self.written is None:
            function = self.function if self.padding is None else and_padding(self.function, self.padding)
            offsets = self.query_offset, self.key_offset
            lengths = self.num_queries, self.num_keys
            self.written = write(self.batch_size, lengths, offsets, function, self.dtype, self.device, vmap=self.vmap)
        return self.written

    def narrow(self, dim: int, start: int, length: int) -> Rule:
        """The rule for ``length`` queries (``dim`` 2) or keys (``dim`` 3) from ``start``."""
        if self.edited:
            raise ModelError(
                "a model slices its attention mask after changing it in place, which qkv's mask cannot follow.\n"
                '  Load this model with attn_implementation="eager", and please report it.'
            )
        if dim == 2:
            offset = self.query_offset + start
            return replace(self, num_queries=length, query_offset=offset, part=True, specs={}, written=None)
        offset = self.key_offset + start
        return replace(self, num_keys=length, key_offset=offset, part=True, written=None).recorded()


def _left_padded(there: Tensor) -> list[int] | None:
    """The first key of each sequence that is there, of a table [batch, key] where all behind it are; else None."""
    if there.shape[1] == 0:
        return None
    first = there.byte().argmax(-1)
    whole = (there.sum(-1) == there.shape[1] - first) & there[:, -1]
    if not bool(whole.all()):
        return None
    return [int(n) for n in first]


@lru_cache(maxsize=256)
def _from(first: tuple[int, ...], device: torch.device) -> qkv.Keep:
    """Keeps keys from a position on, each sequence its own. What a batch is padded by stays the same from token to
    token, and so does this term, with the specs that hold it.
    """
    one = first[0]
    if first.count(one) == len(first):

        def behind_one(j: Any) -> Any:
            return j >= one

        return qkv.keep(behind_one)
    with torch.inference_mode(False):  # a tensor of that mode does not say when it is written to
        table = torch.tensor(first, device=device)

    def behind_each(b: Any, j: Any) -> Any:
        return j >= table[b]

    return qkv.keep(behind_each)


def and_padding(function: MaskFunction, padding: Tensor) -> MaskFunction:
    """The mask function that also asks whether the key is there, as transformers combines the two."""
    combined: MaskFunction = hf.masking.and_masks(function, hf.masking.padding_mask_function(padding))
    return combined


def write(
    batch_size: int,
    lengths: tuple[int, int],
    offsets: tuple[int | Tensor, int],
    function: MaskFunction,
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    vmap: bool,
) -> Tensor:
    """A mask function written out by transformers as for eager attention; lengths and offsets are of queries, keys."""
    made: Tensor = hf.masking.eager_mask(
        batch_size=batch_size,
        q_length=lengths[0],
        kv_length=lengths[1],
        q_offset=offsets[0],
        kv_offset=offsets[1],
        mask_function=function,
        dtype=dtype,
        use_vmap=vmap,
        device=device,
    )
    return made


def holds_tensor(value: object) -> bool:
    """Whether a function holds a tensor, itself or through functions that it holds; yes where that cannot be seen."""
    if isinstance(value, Tensor):
        return True
    if isinstance(value, tuple | list):
        return any(map(holds_tensor, cast(Sequence[object], value)))
    if isinstance(value, partial):
        return holds_tensor((value.func, *value.args, *value.keywords.values()))
    cells = getattr(value, "__closure__", None) or ()
    return callable(value) and (not hasattr(value, "__code__") or any(holds_tensor(c.cell_contents) for c in cells))
