"""Layers of a transformers cache, each over one of qkv's caches.

``update`` writes the new tokens behind the others and hands out what attention reads in place; nothing is joined,
rolled or dequantized. The first pass of a model shows whether it passes keys and values on to attention as it got them;
a model that does not, and every attention function but qkv's, gets ordinary tensors. This module knows transformers'
protocol of a layer; it refuses to know how attention reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import qkv
from qkv.errors import CacheError, ModelError

from . import handed, hf

if TYPE_CHECKING:
    from typing import Self

Asks = Callable[[], bool]
"""Whether the model's attention is qkv's now."""

UNREAD = "not read yet"
IN_PLACE = "read in place"
TOUCHED = "plain tensors: the model changes keys or values between the cache and attention"
DROPPED = "plain tensors: the mask may keep tokens that the window has dropped"
OTHERS = "plain tensors: the model's attention is not qkv's"


class Layer(hf.CacheLayerMixin):
    """One layer's keys and values in a cache of qkv's, as transformers asks for them.

    ``asks_qkv`` tells whether attention is qkv's. ``reading`` says in words what attention gets.
    """

    is_compileable = False
    supports_early_init = False

    def __init__(self, cache: qkv.cache.Cache, asks_qkv: Asks) -> None:
        self.cache = cache
        self.asks_qkv = asks_qkv
        self.untouched = False
        self.reading = UNREAD
        self.record_past = False
        self.unsettled = False
        self.in_place = False

    # what transformers calls

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends ``[batch, heads, token, feature]`` and returns all keys and values: ordinary tensors, or what stands
        for them on the way to qkv's attention.

        Raises ``ModelError`` while gradients are recorded, and what ``Cache.append`` raises; the layer is then as
        before.
        """
        if torch.is_grad_enabled() and (key_states.requires_grad or value_states.requires_grad):
            raise ModelError(
                "keys need a gradient, and qkv.transformers.Cache keeps numbers alone.\n"
                "  Call the model under torch.no_grad() or torch.inference_mode(); train with use_cache=False."
            )
        cache = self.cache
        self.settle()
        before = cache.snapshot()
        try:
            cache.extend(key_states, value_states)
        except BaseException:
            cache.restore(before)
            raise
        self.unsettled = True
        return self._handed(key_states, value_states)

    def _handed(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        self.in_place = False
        if not self.asks_qkv():
            self.reading = OTHERS
            return self.plain()
        if self.cache.standing.count == key.shape[-2]:  # nothing before: the new ones are all, and exact
            return handed.note(key, self), handed.note(value, self)
        self.in_place = self.untouched
        self.reading = IN_PLACE if self.in_place else TOUCHED
        if self.in_place and self.cache.storage:
            count = self.cache.standing.count
            key, value = _shaped(key, count), _shaped(value, count)
        else:
            key, value = self.plain()
        return handed.note(key, self), handed.note(value, self)

    def plain(self) -> tuple[Tensor, Tensor]:
        """All held keys and values as ordinary tensors, dequantized and in order."""
        view = self.cache.view()
        rows = self.cache.rows
        found = [x if isinstance(x, Tensor) else x.whole() for x in (view.keys, view.values)]
        keys, values = found if rows is None else (x.to(rows.dtype) for x in found)
        return keys, values

    def operands(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values of each head as ordinary tensors, for a call that does not read in place."""
        del dtype
        return self.plain()

    def confirm(self, key: Tensor, value: Tensor) -> None:
        """Notes that the model passed on what it was handed: ``key`` and ``value``, which came to attention."""
        del key, value
        self.untouched = True

    def settle(self) -> None:
        """Lets go of what the last pass alone needed, unless a crop is to follow."""
        if self.unsettled and not self.record_past:
            self.cache.settle()
            self.unsettled = False

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the first append says shapes and type."""

    @property
    def is_initialized(self) -> bool:
        """Whether anything was appended."""
        return self.cache.rows is not None

    @property
    def is_sliding(self) -> bool:
        """Whether old tokens are dropped."""
        return isinstance(self.cache, qkv.cache.Ring)

    @property
    def is_croppable(self) -> bool:
        """Whether any number of tokens can be taken back."""
        return not self.is_sliding

    @property
    def keys(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride] - made when asked for
        """All held keys as an ordinary tensor."""
        return self.plain()[0] if self.is_initialized else None

    @property
    def values(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride] - as keys
        """All held values as an ordinary tensor."""
        return self.plain()[1] if self.is_initialized else None

    def get_seq_length(self) -> int:
        """How many tokens were seen."""
        return self.cache.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many keys the next pass sees, and where the first of them stands."""
        self.settle()
        held = self.cache.standing.count
        return held + query_length, self.cache.length - held

    def get_max_length(self) -> int:
        """The capacity, or the window; -1 where there is none."""
        if isinstance(self.cache, qkv.cache.Ring):
            return self.cache.window
        capacity = getattr(self.cache, "capacity", None)
        return -1 if capacity is None else capacity

    get_max_cache_shape = get_max_length

    def reset(self) -> None:
        """Empties the layer."""
        self.cache.release()
        self.unsettled = False

    def crop(self, tokens_to_remove: int) -> None:
        """Takes back the last ``-tokens_to_remove`` tokens. Raises ``CacheError`` for a positive number, and where a
        ring has dropped what would be needed again.
        """
        if tokens_to_remove > 0:
            raise CacheError(
                f"crop({tokens_to_remove}): give how many tokens to take back as a negative number, as transformers "
                f"does.\n  To keep {tokens_to_remove} tokens: crop({tokens_to_remove} - cache.get_seq_length())."
            )
        if tokens_to_remove and self.is_initialized:
            self.cache.truncate(self.cache.length + tokens_to_remove)
        if self.unsettled:
            self.cache.settle()
            self.unsettled = False

    def activate_past_recording(self) -> None:
        """From now on everything is held until ``crop``, which speculative decoding calls after each pass."""
        self.record_past = True

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """The sequences ``beam_idx`` of the batch, in this order."""
        if self.cache.length:
            self.settle()
            self.cache.reorder(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """The sequences ``indices``: numbers, or a truth value for each."""
        self.reorder_cache(indices.nonzero().flatten() if indices.dtype == torch.bool else indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every sequence ``repeats`` times, one after the other."""
        if self.cache.rows is not None:
            self.reorder_cache(torch.arange(self.cache.rows.shared[0]).repeat_interleave(repeats))

    def offload(self) -> None:
        """Refused: the cache is read where it lies."""
        raise CacheError(
            "qkv.transformers.Cache is not moved between devices.\n  Use DynamicCache(offloading=True) for that."
        )

    prefetch = offload

    def __deepcopy__(self, memo: Any) -> Self:
        self.settle()
        twin = type(self)(self.cache.fork(), self.asks_qkv)
        twin.untouched, twin.reading, twin.record_past = self.untouched, self.reading, self.record_past
        twin.unsettled = self.unsettled
        return twin

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.cache!r})"


def _shaped(like: Tensor, count: int) -> Tensor:
    """What stands for ``count`` tokens like these: without memory and on the meta device, so that nobody computes with
    it by mistake.
    """
    return torch.empty((*like.shape[:-2], count, like.shape[-1]), dtype=like.dtype, device="meta")


class LatentLayer(Layer):
    """One layer's latents and rotary keys, of a model that caches them and expands them after ``update``.

    The model is handed the new tokens alone, which it expands in vain and at little cost; its attention call then
    reads all latents through ``module``'s up-projection.
    """

    cache: qkv.cache.Latent

    def __init__(self, cache: qkv.cache.Latent, asks_qkv: Asks, module: nn.Module) -> None:
        super().__init__(cache, asks_qkv)
        self.module = module
        self.checked = False

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends latents and rotary keys ``[batch, 1, token, feature]``; returns the new ones, or all for others."""
        found = super().update(key_states.squeeze(1), value_states.squeeze(1))
        latent, rotary = found
        return latent.unsqueeze(1), rotary.unsqueeze(1)

    def _handed(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        self.in_place = False
        if not self.asks_qkv():
            self.reading = OTHERS
            return self.plain()
        handed.wait(self.module, self)
        if self.cache.standing.count == key.shape[-2]:
            return key, value
        self.in_place = self.untouched
        self.reading = IN_PLACE if self.in_place else TOUCHED
        return (key, value) if self.in_place else self.plain()

    def confirm(self, key: Tensor, value: Tensor) -> None:
        """Notes whether keys and values ``[batch, head, token, feature]`` of the model are what the latents stand for,
        by their last token.
        """
        keys, values = self.cache.expanded(key.dtype, last=1)
        self.untouched = key.shape[:2] == keys.shape[:2] and all(
            x.shape[-1] == y.shape[-1] and _close(x[:, :, -1:], y) for x, y in ((key, keys), (value, values))
        )

    def operands(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values of each head, expanded from all latents."""
        return self.cache.expanded(dtype)

    def plain(self) -> tuple[Tensor, Tensor]:
        """All latents ``[batch, token, latent]`` and rotary keys."""
        rows: Any = self.cache.view().keys
        size = self.cache.latent_size
        return rows[..., :size], rows[..., size:]

    def __deepcopy__(self, memo: Any) -> Self:
        self.settle()
        twin = type(self)(self.cache.fork(), self.asks_qkv, self.module)
        twin.untouched, twin.reading, twin.record_past = self.untouched, self.reading, self.record_past
        return twin


def _close(x: Tensor, y: Tensor) -> bool:
    """Whether two results differ by rounding alone."""
    unit = {torch.float64: 2.0**-40, torch.float32: 2.0**-14}.get(x.dtype, 2.0**-4)
    return bool((x - y).abs().amax() <= unit * y.abs().amax())
