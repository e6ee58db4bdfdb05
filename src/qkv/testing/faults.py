"""A simulated tiled kernel, and faults to plant in it: what a test suite must catch.

Knows how fused kernels are built (tiles of queries and keys, online softmax, float32 sums, 16-bit weights, splits
merged by lse) and how they go wrong. Refuses to be fast, and to share a line with the oracle's arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from qkv.errors import SpecError

#: every fault by name, and what the kernel does wrong
FAULTS: dict[str, str] = {
    "mask one key late": "causal keeps j <= i + 1",
    "mask one key early": "causal keeps j < i",
    "causal from the first key": "causal counts queries from the first key when there are more keys than queries",
    "window one key wide": "window keeps one key too many on the left",
    "missing rescale": "the weighted sum is not rescaled when a tile raises the maximum",
    "missing rescale of the sum": "the sum of weights is not rescaled when a tile raises the maximum",
    "first maximum zero": "the running maximum begins at 0 instead of -inf",
    "tile for repeat": "query head n reads key head n % hk instead of n // g",
    "batch stride for head stride": "the key head's address is its number times the batch stride",
    "strides ignored": "k is read as if it were contiguous",
    "last row unwritten": "the last query row keeps what the buffer held",
    "features cut at the query's": "only as many value features as query features are written",
    "stale keys": "three keys beyond the length, left by a truncate, are read",
    "key dropped at tile border": "the last key of every full tile is skipped",
    "padded keys counted": "a partial last tile counts its empty places as keys of logit 0",
    "scale twice": "the query is scaled before the product and the logits after it",
    "scale from the value size": "the default scale takes the value's size for the query's",
    "logits rounded": "logits are stored in the dtype of the inputs",
    "accumulation in bfloat16": "the weighted sum is rounded to bfloat16 after every tile",
    "finite mask value": "keys that are not kept get the logit -10000 and no key is dropped",
    "NaN multiplied by zero": "the values of keys that are not kept are multiplied by 0",
    "lse base 2": "lse is a logarithm to base 2",
    "sink once per split": "every split of the keys adds the sink",
}

#: faults that a function of q, k, v, causal, mask and scale cannot show
NEEDS_MORE_THAN_A_CALL = frozenset({"window one key wide", "lse base 2", "sink once per split"})


@dataclass(frozen=True, slots=True)
class SimulatedKernel:
    """An attention function that works in tiles, with at most one planted fault; without one it is right.

    Coordinates: called with q [b, h, i, d], k [b, hk, j, d], v [b, hk, j, e]; ``mask`` broadcasts to [b, h, i, j].
    Causal queries end at the last key. ``splits`` is the number of parts of the keys that are merged by lse.
    Raises: SpecError for an unknown fault.

    >>> SimulatedKernel("missing rescale")(*torch.randn(3, 1, 2, 5, 8), causal=True).shape
    torch.Size([1, 2, 5, 8])
    """

    fault: str = ""
    query_tile: int = 32
    key_tile: int = 16
    splits: int = 1

    def __post_init__(self) -> None:
        if self.fault and self.fault not in FAULTS:
            raise SpecError(f'there is no fault "{self.fault}".\n    faults: {", ".join(FAULTS)}')

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        causal: bool = False,
        mask: Tensor | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """The output [b, h, i, e], in the dtype of ``q``."""
        return self.run(q, k, v, causal=causal, mask=mask, scale=scale)[0]

    def run(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        causal: bool = False,
        mask: Tensor | None = None,
        window: int | None = None,
        scale: float | None = None,
        sink: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The output [b, h, i, e] and the lse [b, h, i] in float32; ``window`` keys, the query's own included."""
        batch, heads, queries, features = q.shape
        if scale is None:
            scale = 1 / math.sqrt(v.shape[-1] if self.fault == "scale from the value size" else features)
        keep = self.keep(q, k, causal=causal, mask=mask, window=window)
        k, v, keep = self._stored(k, v, keep)
        k, v = self._repeat(k, heads), self._repeat(v, heads)
        output, lse = q.new_zeros(batch, heads, queries, v.shape[-1]), torch.full(q.shape[:3], -torch.inf)
        for start in range(0, queries, self.query_tile):
            rows = slice(start, start + self.query_tile)
            query = q[:, :, rows].float() * (scale if self.fault == "scale twice" else 1.0)
            parts = [self._part(query, k, v, keep[:, :, rows], span, scale, sink) for span in self._spans(k.shape[2])]
            tile, tile_lse = self._merge(parts, sink, keep[:, :, rows].any(-1))
            output[:, :, rows] = tile.to(q.dtype)
            lse[:, :, rows] = tile_lse / 0.6931472 if self.fault == "lse base 2" else tile_lse
        if self.fault == "last row unwritten":
            output[:, :, -1:] = 0
        if self.fault == "features cut at the query's":
            output[..., features:] = 0
        return output, lse

    def keep(self, q: Tensor, k: Tensor, *, causal: bool, mask: Tensor | None, window: int | None) -> Tensor:
        """The mask [b, h, i, j] that the kernel applies."""
        queries, keys = q.shape[2], k.shape[2]
        first = 0 if self.fault == "causal from the first key" else keys - queries
        query = torch.arange(queries)[:, None] + first
        key = torch.arange(keys)[None, :]
        keep = torch.ones(queries, keys, dtype=torch.bool)
        if causal:
            keep = key <= query + {"mask one key late": 1, "mask one key early": -1}.get(self.fault, 0)
        if window is not None:
            keep = keep & (key > query - window - int(self.fault == "window one key wide"))
        return (keep if mask is None else keep & mask).expand(*q.shape[:3], keys)

    def _stored(self, k: Tensor, v: Tensor, keep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values as the kernel finds them in memory."""
        if self.fault == "strides ignored":
            memory = torch.empty(0, dtype=k.dtype).set_(k.untyped_storage())
            place = (k.storage_offset() + torch.arange(k.numel())) % max(1, len(memory))
            k = memory[place].view(k.shape)
        extra = 0
        if self.fault == "stale keys":
            extra = 3
        elif self.fault == "padded keys counted":
            extra = -k.shape[2] % self.key_tile
        if extra:
            stale = torch.ones if self.fault == "stale keys" else torch.zeros
            k = torch.cat([k, stale(*k.shape[:2], extra, k.shape[3], dtype=k.dtype)], 2)
            v = torch.cat([v, stale(*v.shape[:2], extra, v.shape[3], dtype=v.dtype)], 2)
            keep = torch.cat([keep, torch.ones(*keep.shape[:3], extra, dtype=torch.bool)], 3)
        if self.fault == "key dropped at tile border":
            keep = keep & (torch.arange(keep.shape[3]) % self.key_tile != self.key_tile - 1)
        return k, v, keep

    def _repeat(self, x: Tensor, heads: int) -> Tensor:
        """One key head for every query head."""
        batch, key_heads = x.shape[:2]
        number = torch.arange(heads)
        number = number % key_heads if self.fault == "tile for repeat" else number // (heads // key_heads)
        entry = torch.arange(batch)[:, None]
        if self.fault == "batch stride for head stride":
            entry = (entry + number) % batch
            number = number * 0
        return x[entry, number]

    def _spans(self, keys: int) -> Iterator[range]:
        size = max(1, -(-keys // self.splits))
        for start in range(0, max(1, keys), size):
            yield range(start, min(start + size, keys))

    def _part(
        self, query: Tensor, k: Tensor, v: Tensor, keep: Tensor, span: range, scale: float, sink: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The weighted sum, the maximum and the sum of weights over one part of the keys, tile by tile."""
        total = query.new_zeros(*query.shape[:3], v.shape[-1])
        top = torch.full(query.shape[:3], 0.0 if self.fault == "first maximum zero" else -torch.inf)
        weight = torch.zeros(query.shape[:3])
        for start in range(span.start, span.stop, self.key_tile):
            tile = slice(start, min(start + self.key_tile, span.stop))
            kept = keep[..., tile]
            logits = torch.where(kept, (query @ k[:, :, tile].float().mT) * scale, -torch.inf)
            if self.fault == "finite mask value":
                logits = torch.where(kept, logits, -10000.0)
            if self.fault == "logits rounded":
                logits = logits.to(v.dtype).float()
            higher = torch.maximum(top, logits.amax(-1))
            safe = torch.where(higher == -torch.inf, 0.0, higher)
            rescale = torch.exp(top - safe)
            exponentials = torch.exp(logits - safe[..., None])
            kept = kept | (self.fault == "finite mask value")
            total = total * (1.0 if self.fault == "missing rescale" else rescale[..., None])
            total = total + self._weigh(exponentials.to(v.dtype).float(), v[:, :, tile].float(), kept)
            weight = weight * (1.0 if self.fault == "missing rescale of the sum" else rescale) + exponentials.sum(-1)
            if self.fault == "accumulation in bfloat16":
                total = total.bfloat16().float()
            top = higher
        if self.fault == "sink once per split" and sink is not None:
            top, total, weight = _add_sink(top, total, weight, sink)
        return total, top, weight

    def _weigh(self, weights: Tensor, v: Tensor, kept: Tensor) -> Tensor:
        if self.fault == "NaN multiplied by zero" or bool(v.isfinite().all()):
            return weights @ v
        # a product with a key that is not kept is never formed; finite keys are summed as ever, so that what one batch
        # entry holds cannot change the bits of another
        finite = v.isfinite()
        special = torch.where(kept[..., None] & ~finite[:, :, None], weights[..., None] * v[:, :, None], 0.0)
        return weights @ torch.where(finite, v, 0.0) + special.sum(-2)

    def _merge(
        self, parts: list[tuple[Tensor, Tensor, Tensor]], sink: Tensor | None, alive: Tensor
    ) -> tuple[Tensor, Tensor]:
        total, top, weight = parts[0]
        for other_total, other_top, other_weight in parts[1:]:
            higher = torch.maximum(top, other_top)
            safe = torch.where(higher == -torch.inf, 0.0, higher)
            mine, other = torch.exp(top - safe), torch.exp(other_top - safe)
            total = total * mine[..., None] + other_total * other[..., None]
            top, weight = higher, weight * mine + other_weight * other
        if sink is not None and self.fault != "sink once per split":
            top, total, weight = _add_sink(top, total, weight, sink)
        dead = ~alive if self.fault != "finite mask value" else torch.zeros_like(alive)
        output = torch.where(dead[..., None], 0.0, total / torch.where(dead, 1.0, weight)[..., None])
        return output, torch.where(dead, -torch.inf, top + weight.log())


def _add_sink(top: Tensor, total: Tensor, weight: Tensor, sink: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    column = sink.float()[:, None].expand_as(top)
    higher = torch.maximum(top, column)
    mine = torch.exp(top - higher)
    return higher, total * mine[..., None], weight * mine + torch.exp(column - higher)
