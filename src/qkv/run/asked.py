"""What a call with a cache asks for: checked, its shapes solved for all keys that it will see, and what the planner is
told of it.

It knows options, shapes and rotations; it refuses to know how keys are appended and read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from ..cache import Cache, Latent
from ..cache.protocol import Rows
from ..coords import Named
from ..errors import CacheError, CoordinateError, DtypeError, ShapeError, SizeMismatch, SpecError
from ..plan import Plan, Request, choose, forced
from ..spec import Spec
from . import dropout as dropping
from . import finite, latent
from .bind import Frame, check_claims, check_dropout, check_tensors, frame
from .options import check_options, wanted
from .places import Place, Places
from .requests import request_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..terms.position import Rope

OPTIONS = frozenset({"cache", "lengths", "invariant"})

REMEMBERED = 256
"""How many signatures a spec remembers; the oldest is forgotten first."""

ROUNDED = 64
"""Plans are made for numbers of keys that are multiples of this."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One call with a cache: its frame for all keys that it will see, how many of them are new, and its options."""

    cache: Cache
    made: Frame
    num_new: int
    options: Mapping[str, Any]
    want: frozenset[str]
    dropout: float
    lengths: Any
    invariant: bool

    def operands(self, q: Tensor) -> latent.Call:
        """What a call with a latent cache needs of this."""
        seed = self.options.get("seed")
        chosen = seed if seed is not None else dropping.draw_seed() if self.dropout else 0
        return latent.Call(self.made, q, self.want, self.dropout, chosen)


def concerns(k: Any, v: Any, options: Mapping[str, Any]) -> bool:
    """Whether a call has a cache. Raises ``DtypeError`` or ``SpecError`` for one that lacks it."""
    if options.get("cache") is not None:
        return True
    if k is not None and v is not None and not options.keys() & OPTIONS:
        return False
    for name, x in (("k", k), ("v", v)):
        if x is None:
            raise DtypeError(
                f"{name} is NoneType, not a torch tensor.\n"
                "  Give q, k and v; or a cache that holds keys: spec(q, cache=cache)."
            )
    for name in ("lengths", "invariant"):
        if options.get(name):
            raise SpecError(
                f"{name}={options[name]!r:.80} speaks of a cache, and there is none.\n"
                "  Give one of qkv.cache: spec(q, k, v, cache=cache)."
            )
    return False


def without(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of a call without a cache, less the empty ones that speak of caches."""
    if not options.keys() & OPTIONS:
        return options
    return {name: value for name, value in options.items() if name not in OPTIONS}


def check_cache(cache: object, q: Any, k: Any, v: Any) -> None:
    """The named error for what is no cache, and for tensors that no cache takes."""
    if not isinstance(cache, Cache):
        raise SpecError(f"cache = {cache!r:.80} is no cache.\n  Make one: qkv.cache.Dense(), qkv.cache.Ring(window).")
    if any(isinstance(x, Named) for x in (q, k, v)):
        raise CoordinateError(
            "a call with a cache takes plain tensors, and one is Named.\n"
            "  Give tensor.tensor with the pattern in the spec: a cache joins along the key, which is not a name."
        )
    if (k is None) != (v is None):
        raise SpecError(
            f"{'k' if k is None else 'v'} is missing: tokens are appended with both.\n"
            "  Give k and v, or neither to attend to what the cache holds."
        )
    given = [x for x in (q, k, v) if x is not None]
    if len(given) == 3:
        check_tensors(*given)
    else:
        check_tensors(given[0], given[0], given[0])
    if any(finite.is_transformed(x) for x in given):
        raise SpecError(
            "a torch.func transform (vmap, jvp, grad) is active, and a cache changes.\n"
            "  Call it outside, or give k and v as tensors without a cache."
        )
    if torch.is_grad_enabled() and any(x.requires_grad for x in given[1:]):
        raise SpecError(
            "k or v needs a gradient, and a cache keeps numbers alone.\n"
            "  Decode under torch.no_grad() or torch.inference_mode(); train without a cache."
        )


def ask(spec: Spec, q: Tensor, k: Tensor | None, v: Tensor | None, cache: Cache, options: Mapping[str, Any]) -> Asked:
    """The call, checked."""
    own = {name: value for name, value in options.items() if name not in OPTIONS}
    check_options(own)
    want, share = wanted(spec, own.get("want", ())), own.get("dropout", 0.0)
    check_dropout(share)
    if own.get("align") is not None:
        raise SpecError(
            f"align={own['align']!r} is given with a cache, which says where the queries stand.\n"
            '  Leave it out, or give positions={"i": ...}.'
        )
    invariant = options.get("invariant", False)
    if not isinstance(invariant, bool):
        raise SpecError(f"invariant={invariant!r} is not understood.\n  Give True or False.")
    if isinstance(cache, Latent):
        num_new = latent.num_new(cache, k, v)
        total = cache.held(num_new, options.get("lengths"))
        shapes = shapes_of(spec, q, latent.rows_of(cache, k, v), cache, total)
    else:
        num_new = 0 if k is None else k.shape[_key_axis(spec, "k", k.dim())]
        total = cache.held(num_new, options.get("lengths"))
        shapes = _given_shapes(spec, q, k, v, cache, total)
    made = _frame(spec, q, shapes, total, own.get("sizes"))
    return Asked(cache, made, num_new, own, want, share, options.get("lengths"), invariant)


def _key_axis(spec: Spec, tensor: str, rank: int) -> int:
    """Which axis of k or v is the key's."""
    keys = spec.roles.key
    axes = spec.parsed.tensors[tensor].axes
    found = [n for n, axis in enumerate(axes) if axis.names == keys and not axis.rest]
    if len(keys) != 1 or not found:
        raise SpecError(
            f"a cache joins along the key, and the pattern has {' '.join(keys)} in {spec.parsed.tensors[tensor]}.\n"
            "  Give the one key coordinate an axis of its own: b h j d."
        )
    rests = [n for n, axis in enumerate(axes) if axis.rest]
    behind = len(axes) - 1 - found[0]
    return rank - 1 - behind if rests and rests[0] < found[0] else found[0]


Shapes = tuple[tuple[int, ...], tuple[int, ...]]


def _given_shapes(spec: Spec, q: Tensor, k: Tensor | None, v: Tensor | None, cache: Cache, total: int) -> Shapes:
    """The shapes of k and v; of all keys that the cache holds where they are not given."""
    if k is not None and v is not None:
        return tuple(k.shape), tuple(v.shape)
    if cache.rows is None:
        raise cache.empty("spec(q, cache=)")
    return shapes_of(spec, q, cache.rows, cache, total)


def _frame(spec: Spec, q: Tensor, shapes: Shapes, total: int, sizes: Mapping[str, int] | None) -> Frame:
    """The frame over ``total`` keys: what does not depend on their number is remembered."""
    known = None if not sizes else tuple(sorted(sizes.items()))
    axes = tuple(_key_axis(spec, name, len(shape)) for name, shape in zip("kv", shapes, strict=True))
    less = tuple(shape[:axis] + shape[axis + 1 :] for shape, axis in zip(shapes, axes, strict=True))
    if shapes[0][axes[0]] != shapes[1][axes[1]]:
        raise SizeMismatch(
            f"k has {shapes[0][axes[0]]} tokens and v {shapes[1][axes[1]]}.\n  Every key has one value.",
            coordinate=spec.roles.key[0],
        )
    memory: dict[Any, Frame] = spec.__dict__.setdefault("_cached_frames", {})
    signature = (q.shape, less, q.dtype, q.device, known)
    found = memory.get(signature)
    if found is None:
        like = [
            q.detach().new_empty(()).expand((*shape[:axis], total, *shape[axis + 1 :]))
            for shape, axis in zip(shapes, axes, strict=True)
        ]
        found = frame(spec, q, like[0], like[1], sizes)
        if len(memory) >= REMEMBERED:
            memory.pop(next(iter(memory)), None)
        memory[signature] = found
    key = found.lowered.key[0]
    if found.sizes[key] != total:
        found = replace(found, sizes={**found.sizes, key: total})
        check_claims(found.lowered, found.sizes)
    return found


def shapes_of(spec: Spec, q: Tensor, rows: Rows, cache: Cache, total: int) -> Shapes:
    """The shapes that k and v would have if they held all ``total`` keys of such rows."""
    parsed = spec.parsed
    extra = q.dim() - sum(not axis.rest for axis in parsed.query.axes)
    rests = dict.fromkeys((r for t in parsed.tensors.values() for r in t.rests), max(0, extra))
    lowered = spec.lowered(rests)
    if len(lowered.shared) != len(rows.shared):
        raise ShapeError(
            f"the cache holds {len(rows.shared)} shared coordinates, and the pattern has "
            f"{len(lowered.shared)}: {' '.join(lowered.shared)}.\n"
            "  A cache serves one layout: that of its first append."
        )
    sizes = {**dict(zip(lowered.shared, rows.shared, strict=True)), lowered.key[0]: total}
    features = (("k", lowered.features, rows.feature_size), ("v", lowered.value_features, rows.value_size))
    for tensor, names, size in features:
        found = cache.features.get(tensor, ((names[0], size),) if len(names) == 1 else ())
        sizes.update(dict(found))
        if any(name not in sizes for name in names):
            raise SpecError(
                f"the cache holds {size} features, and the pattern names several: {' '.join(names)}.\n"
                "  Their sizes are known after a call that appends: spec(q, k, v, cache=cache)."
            )
    pattern = lowered.pattern
    return (
        tuple(math.prod(sizes[n] for n in axis.names) for axis in pattern.key.axes),
        tuple(math.prod(sizes[n] for n in axis.names) for axis in pattern.value.axes),
    )


def request_for(asked: Asked, q: Tensor, storage: frozenset[str], relation: str | None) -> Request:
    """The planner's question about the call. The number of keys is rounded up where it grows with every call, so that
    few questions are new.
    """
    made = request_of(asked.made, q, q, q, {}, asked.want, asked.dropout, False)
    lowered = asked.made.lowered
    related = relation if lowered.relations else None
    sizes = dict(made.sizes)
    if asked.num_new < sizes[lowered.key[0]]:
        sizes[lowered.key[0]] = -(-sizes[lowered.key[0]] // ROUNDED) * ROUNDED
    return replace(
        made, sizes=tuple(sorted(sizes.items())), relation=related, storage=storage, invariant=asked.invariant
    )


def planned(spec: Spec, request: Request) -> Plan:
    """The plan of the request, remembered with the spec."""
    memory: dict[Any, Plan] = spec.__dict__.setdefault("_cached_plans", {})
    key = (request, forced(), torch.backends.cuda.flash_sdp_enabled())
    found = memory.get(key)
    if found is None:
        found = choose(request, forced())
        if len(memory) >= REMEMBERED:
            memory.pop(next(iter(memory)), None)
        memory[key] = found
    return found


def check_seal(cache: Cache, rope: Rope | None, new: Frame, place: Place) -> None:
    """Keys in a cache are turned already: a rotation that would turn them otherwise now is an error."""
    length = 0
    if rope is not None and rope.scaling is not None:
        key = new.lowered.key[0]
        length = rope.scaling.effective_length(Places((key,), new.sizes, {key: place}, new.device).largest(key))
    seal = (rope, length)
    if cache.seal is None and cache.turned not in (None, repr(seal)):
        raise CacheError(
            f"the cache was saved with keys turned by {cache.turned}, and this call would turn them by {seal!r}.\n"
            "  One cache serves one rotation: use the spec that filled it."
        )
    if cache.seal is not None and cache.seal != seal:
        before: Any = cache.seal
        raise CacheError(
            f"the cache holds keys turned by {before[0]}, and this call would turn them by {rope}"
            f"{'' if before[0] != rope else ', whose frequencies have changed with the length'}.\n"
            "  One cache serves one rotation; dynamic scalings need a fixed one, or a prefill from the start."
        )
    cache.seal = seal


def relation_of(made: Frame, places: Mapping[str, Place]) -> str | None:
    """How queries stand to keys, as ``Request`` says it."""
    if not made.lowered.relations:
        return None
    plain = all(place.given is None and place.components is None for place in places.values())
    if not plain:
        return "given"
    equal = all(
        made.sizes[q] == made.sizes[k] and places.get(q, Place()).offset == places.get(k, Place()).offset
        for q, k in made.lowered.relations
    )
    return "equal" if equal else "offset"
