"""The largest context or batch whose cache fits a memory.

The cache grows piecewise: windows fill, blocks round, states stand still, so that no constant per token answers this.
It never shrinks, however, and so the answer is found by halving, with every figure exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .. import limits
from ..errors import SpecError
from .cache import cache_size
from .description import Model
from .format import Format, to_format
from .policy import Policy, to_policy
from .units import to_bytes, to_count


@dataclass(frozen=True, slots=True)
class Fit:
    """The largest ``searched`` (context or batch) that fits: ``bytes`` is its cache on one device, ``next_bytes`` that
    of one more.

    ``value`` is 0 where not even one fits; then ``bytes`` is 0 and ``next_bytes`` what one takes. ``value`` is None
    where no size that can be counted is too large, as for a model of windows and states alone.
    """

    model: str
    policy: str
    dtype: str
    searched: Literal["context", "batch"]
    value: int | None
    context: int
    batch: int
    tensor_parallel: int
    memory_bytes: int
    reserve_bytes: int
    bytes: int
    next_bytes: int
    max_context: int

    @property
    def exceeds_model(self) -> bool:
        """Whether the context found is beyond the positions that the model's config names."""
        found = limits.SIZE_COUNT if self.value is None else self.value
        return self.searched == "context" and 0 < self.max_context < found


def fit(
    model: Model,
    memory: int | str,
    *,
    context: int | str | None = None,
    batch: int | str | None = None,
    reserve: int | str = 0,
    dtype: str | Format = "bf16",
    policy: str | Policy = "math",
    tensor_parallel: int = 1,
    source: int | str = 0,
    state_dtype: str | Format = "f32",
) -> Fit:
    """The largest context for ``batch`` (1 without it), or the largest batch for ``context``, whose cache fits.

    ``memory`` is that of one device, of which ``reserve`` is kept for weights and the rest. Raises ``SpecError`` for
    both ``context`` and ``batch``, and for a reserve that leaves nothing.

    >>> import qkv
    >>> fit(qkv.size.model("llama-3-8b"), "1GiB").value, fit(qkv.size.model("llama-3-8b"), "24GiB", context=8192).value
    (8192, 24)
    """
    if context is not None and batch is not None:
        raise SpecError(
            "both a context and a batch are given, so that nothing is left to find.\n"
            "  Give context= for the largest batch, or batch= for the largest context."
        )
    total, kept = to_bytes(memory), to_bytes(reserve, "reserve", least=0)
    if kept >= total:
        raise SpecError(f"reserve={kept} leaves nothing of memory={total}.\n  What is left holds the cache.")
    chosen, element = to_policy(policy), to_format(dtype)
    searched: Literal["context", "batch"] = "context" if context is None else "batch"
    tokens = 0 if context is None else to_count(context, "context")
    number = 1 if batch is None else to_count(batch, "batch")

    def size(value: int) -> int:
        at = (value, number) if searched == "context" else (tokens, value)
        return cache_size(
            model, at[0], batch=at[1], dtype=element, policy=chosen, tensor_parallel=tensor_parallel, source=source,
            state_dtype=state_dtype,
        ).bytes  # fmt: skip

    room = total - kept
    value = _largest(size, room)
    found = limits.SIZE_COUNT - 1 if value is None else value
    at_context, at_batch = (found, number) if searched == "context" else (tokens, found)
    return Fit(
        model.name, chosen.name, element.name, searched, value, at_context, at_batch, tensor_parallel, total, kept,
        size(found) if found else 0, size(found + 1), model.max_context,
    )  # fmt: skip


def _largest(size: Callable[[int], int], room: int) -> int | None:
    """The largest positive value whose size is at most ``room``; 0 where 1 is too large, None where none is."""
    if size(1) > room:
        return 0
    low, high = 1, 2
    while high < limits.SIZE_COUNT and size(high) <= room:
        low, high = high, 2 * high
    if high >= limits.SIZE_COUNT:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= room else (low, middle)
    return low
