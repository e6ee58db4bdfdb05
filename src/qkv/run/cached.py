"""Calls with a cache: new keys turned and appended, queries placed among all keys, and everything taken back when the
call fails.

Prefill, prefill in parts and decoding are this one call. It knows the protocol of caches and the layout of calls; it
refuses to know how a cache keeps its keys, and how sums are taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from ..cache import Cache, Latent, Recurrent, Stored
from ..cache.protocol import Rows, View
from ..coords import Named
from ..errors import CacheError, CoordinateError, ShapeError, SizeMismatch, SpecError
from ..plan import Plan, Request, choose, find, forced
from ..spec import Lowered, Spec
from ..terms.expr import Index, Lookup, apply
from ..terms.weights import Linear
from . import dropout as dropping
from . import finite, latent, steps
from .bind import (
    Bound,
    Frame,
    Recurrence,
    assembled,
    check_claims,
    check_dropout,
    check_tensors,
    frame,
    mapped,
    precision_of,
    turned,
)
from .layout import flatten_last
from .masks import is_plain_causal
from .options import check_options, wanted
from .places import Place, Places
from .requests import request_of, result_of
from .result import Result
from .standing import check_dropped, key_place, new_positions, place_along, query_places, said

if TYPE_CHECKING:
    from torch import Tensor

    from ..terms.position import Rope

OPTIONS = frozenset({"cache", "lengths", "invariant"})

REMEMBERED = 256
"""How many signatures a spec remembers; the oldest is forgotten first."""


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
    """Whether a call has a cache. Raises ``SpecError`` for one that lacks it."""
    if options.get("cache") is not None:
        return True
    if k is not None and v is not None and not options.keys() & OPTIONS:
        return False
    said = [name for name in ("lengths", "invariant") if options.get(name)]
    if k is None or v is None or said:
        lacking = " and ".join(name for name, x in (("k", k), ("v", v)) if x is None)
        raise SpecError(
            f"{f'{lacking} not given' if lacking else f'{said[0]}= is given'}, and there is no cache.\n"
            "  Give q, k and v; or a cache that holds keys: spec(q, cache=cache)."
        )
    return False


def without(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of a call without a cache, less the empty ones that speak of caches."""
    if not options.keys() & OPTIONS:
        return options
    return {name: value for name, value in options.items() if name not in OPTIONS}


def output(spec: Spec, q: Any, k: Any, v: Any, options: Mapping[str, Any]) -> Any:
    """The output alone of one call; that of a step seen before comes straight from the core."""
    if k is None and v is None and len(options) == 1:
        found = None if torch.compiler.is_compiling() else steps.answer(spec, q, options["cache"])
        if found is not None:
            return found
    called: Any = run
    return called(spec, q, k, v, options).output


@torch.compiler.disable  # pyright: ignore[reportUntypedFunctionDecorator] - a cache changes, which no graph may hold
def run(spec: Spec, q: Any, k: Any, v: Any, options: Mapping[str, Any]) -> Result:
    """The result of one call; the cache holds the new tokens afterwards, or what it held before where this raises."""
    cache: Any = options["cache"]
    _check_cache(cache, q, k, v)
    device = q.device.type if hasattr(q, "device") else "cpu"
    with torch.autocast(device, enabled=False):
        asked = _asked(spec, q, k, v, cache, options)
        before = cache.snapshot()
        try:
            bound, plan = _appended(asked, q, k, v)
            result = result_of(bound.frame, bound, find(plan.strategy).run(bound), plan)
            bound.after()
            if k is not None:
                cache.settle()
            elif len(options) == 1:
                steps.remember(spec, q, cache, bound, plan)
        except BaseException:
            cache.restore(before)
            raise
    return result


def plan(spec: Spec, q: Any, k: Any, v: Any, options: Mapping[str, Any]) -> Plan:
    """The plan of one call; nothing is appended."""
    cache: Any = options["cache"]
    _check_cache(cache, q, k, v)
    asked = _asked(spec, q, k, v, cache, options)
    if isinstance(cache, Latent):
        return latent.decide(cache, _request(asked, q, frozenset(), "offset"))[1]
    equal = asked.num_new == sum(asked.made.sizes[n] for n in asked.made.lowered.key)
    return choose(_request(asked, q, cache.storage, "equal" if equal else "offset"), forced())


def _check_cache(cache: object, q: Any, k: Any, v: Any) -> None:
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


def _asked(
    spec: Spec, q: Tensor, k: Tensor | None, v: Tensor | None, cache: Cache, options: Mapping[str, Any]
) -> Asked:
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


def _appended(asked: Asked, q: Tensor, k: Tensor | None, v: Tensor | None) -> tuple[Bound, Plan]:
    """The call bound to all keys, the new ones appended, and its plan."""
    made, cache = asked.made, asked.cache
    key = made.lowered.key[0]
    if isinstance(cache, Recurrent):
        return _recurring(asked, cache, q, k, v)
    if k is not None and v is not None:
        _append(asked, k, v)
    view = cache.view()
    if view.standing.count != made.sizes[key]:
        raise CacheError(
            f"the {cache.kind} cache shows {view.standing.count} keys where it promised {made.sizes[key]}.\n"
            "  It was changed while it was read: use one cache in one thread."
        )
    if view.lengths is not None:
        made = _with_lengths(cache, made, view)
    places = query_places(made, asked.options.get("positions"), view, asked.num_new)
    places[key] = key_place(made, view)
    at = Places(made.axes, made.sizes, places, made.device)
    check_dropped(cache, made, view, at)
    relation = _relation(made, places)
    if isinstance(cache, Latent):
        return latent.bound(asked.operands(q), cache, at, _request(asked, q, frozenset(), relation))
    request = _request(asked, q, cache.storage, relation)
    chosen = choose(request, forced())
    if chosen.needs_finite and isinstance(view.keys, torch.Tensor) and isinstance(view.values, torch.Tensor):
        chosen = choose(replace(request, finite=finite.is_finite(view.keys, view.values)), forced())
    return _bound(asked, made, q, view, at, exact=find(chosen.strategy).capability.exact), chosen


def _append(asked: Asked, k: Tensor, v: Tensor) -> None:
    """The new tokens, keys turned at their positions, in canonical layout."""
    made, cache = asked.made, asked.cache
    lowered, key = made.lowered, made.lowered.key[0]
    new = replace(made, sizes={**made.sizes, key: asked.num_new})
    place, positions = new_positions(new, asked.options.get("positions"), cache)
    if isinstance(cache, Latent):
        _check_seal(cache, made.spec.position, new, place)
        cache.extend(k.detach(), latent.turned_rotary(new, cache, v.detach(), place), positions, asked.lengths)
        return
    rows = _rows(new, k, place, cache)
    values = flatten_last(new.value.canonical(v.detach()), len(lowered.value_features))
    cache.extend(rows.to(k.dtype), values, positions, asked.lengths)
    for name, names in (("k", lowered.features), ("v", lowered.value_features)):
        if len(names) > 1 and name not in cache.features:
            cache.features = {**cache.features, name: tuple((n, made.sizes[n]) for n in names)}


def _rows(new: Frame, k: Tensor, place: Place, cache: Cache) -> Tensor:
    """New keys in canonical layout, turned at their positions; both maps of differential weights side by side."""
    lowered = new.lowered
    rows = new.key.canonical(k.detach())
    rope = new.spec.position
    _check_seal(cache, rope, new, place)
    if rope is not None or rows.dim() != 2 + len(lowered.shared):
        if rope is not None:
            at = Places(new.axes, new.sizes, {lowered.key[0]: place}, new.device)
            rows = turned(new, rows, at, 1, precision_of(new, False))
        else:
            rows = flatten_last(rows, len(lowered.features) - (1 if lowered.branch else 0))
        if rows.dim() != 2 + len(lowered.shared):  # maps of differential weights: back beside one another
            rows = rows.movedim(0, -2).flatten(-2)
    return rows


def _check_seal(cache: Cache, rope: Rope | None, new: Frame, place: Place) -> None:
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


def _with_lengths(cache: Cache, made: Frame, view: View) -> Frame:
    """The frame whose mask drops what stands behind the end of each sequence."""
    if view.lengths is None:
        return made
    key = ("lengths", id(made.lowered))
    if key not in cache.remembered:
        lowered = made.lowered
        inside = apply("lt", Index(lowered.key[0]), Lookup(view.lengths, (Index(lowered.shared[0]),)))
        keep = inside if lowered.keep is None else apply("and", lowered.keep, inside)
        cache.remembered[key] = (
            lowered,  # kept alive, so that no other takes its identity
            replace(lowered, keep=keep, captured=(*lowered.captured, view.lengths), programs={}),
        )
    found: Lowered = cache.remembered[key][1]
    return replace(made, lowered=found)


def _relation(made: Frame, places: Mapping[str, Place]) -> str | None:
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


def _request(asked: Asked, q: Tensor, storage: frozenset[str], relation: str | None) -> Request:
    made = request_of(asked.made, q, q, q, {}, asked.want, asked.dropout, False)
    related = relation if asked.made.lowered.relations else None
    return replace(made, relation=related, storage=storage, invariant=asked.invariant)


def _bound(asked: Asked, made: Frame, q: Tensor, view: View, places: Places, *, exact: bool) -> Bound:
    """The call in canonical layout: queries turned, keys as the cache shows them."""
    lowered, spec = made.lowered, made.spec
    precision = precision_of(made, exact)
    queries = mapped(made, turned(made, made.query.canonical(q), places, 0, precision), exact)
    branches = queries.dim() - 1 - len(lowered.shared) - len(lowered.query_order)
    keys, values = view.keys, view.values
    stored: tuple[Stored, Stored] | None = None
    if isinstance(keys, Stored) or isinstance(values, Stored):
        if not isinstance(keys, Stored) or not isinstance(values, Stored):
            raise CacheError("a cache shows keys as stored and values as a tensor.\n  Show both in one way.")
        if isinstance(spec.weights, Linear):
            raise SpecError(
                f"linear weights read a dense or a recurrent cache, and this one is {asked.cache.kind}.\n"
                "  Use qkv.cache.Recurrent(), whose size does not grow."
            )
        stored = (keys, values)
        size = keys.feature_size // 2 if branches else keys.feature_size
        lead = ((2,) * branches, keys.shared)
        shape = (*lead[0], *lead[1], keys.count, size)
        working = made.dtype
        keys = torch.empty(shape, dtype=working, device="meta")
        values = torch.empty((*values.shared, values.count, values.feature_size), dtype=working, device="meta")
    else:
        keys = keys.unflatten(-1, (2, keys.shape[-1] // 2)).movedim(-2, 0) if branches else keys
        keys = mapped(made, keys.to(precision) if isinstance(spec.weights, Linear) else keys, exact)
    seed = asked.options.get("seed")
    chosen = seed if seed is not None else dropping.draw_seed() if asked.dropout else 0
    bound = assembled(made, (queries, keys, values), places, asked.want, asked.dropout, chosen, exact)
    bound.stored = stored
    return bound


def _recurring(asked: Asked, cache: Recurrent, q: Tensor, k: Tensor | None, v: Tensor | None) -> tuple[Bound, Plan]:
    """The call bound to the new tokens alone, with the sums over those before."""
    made = asked.made
    lowered, spec, key = made.lowered, made.spec, made.lowered.key[0]
    causal = any(is_plain_causal(lowered.keep, n, key) for n in lowered.query_order)
    if not isinstance(spec.weights, Linear) or (lowered.keep is not None and not causal):
        raise SpecError(
            f"a recurrent cache holds the state of linear weights under causal() or no mask; this is {spec!r}.\n"
            "  Use qkv.cache.Dense(), or qkv.Spec(keep=qkv.causal(), weights=qkv.linear())."
        )
    place, positions = new_positions(made, asked.options.get("positions"), cache)
    places = {key: place}
    for query, _ in lowered.relations:
        count = made.sizes[query]
        if asked.num_new == 0 and count > 1 and lowered.keep is not None:
            raise SpecError(
                f"a recurrent cache holds one sum, of all its tokens, and {count} queries would see different ones.\n"
                "  Give one query, or k and v with the queries."
            )
        last = cache.standing.last(count)
        at = cache.following(count) if asked.num_new else last.first if last.given is None else last.given
        places[query] = Place(offset=at) if isinstance(at, int) else place_along(made, query, at)
    places.update({n: p for n, p in said(made, asked.options.get("positions")).items() if n not in lowered.key})
    _check_seal(cache, spec.position, made, place)
    at = Places(made.axes, made.sizes, places, made.device)
    relation = (
        "equal" if asked.num_new == 0 or all(made.sizes[n] == asked.num_new for n, _ in lowered.relations) else ""
    )
    chosen = choose(_request(asked, q, cache.storage, relation), forced())
    precision = precision_of(made, False)
    if k is None or v is None:
        shape = [made.sizes[n] for n in (*lowered.shared, key)]
        rows = q.new_zeros(*shape, math.prod(made.sizes[n] for n in lowered.features))
        values = q.new_zeros(*shape, math.prod(made.sizes[n] for n in lowered.value_features))
    else:
        rows = turned(made, made.key.canonical(k.detach()), at, 1, precision)
        values = flatten_last(made.value.canonical(v.detach()), len(lowered.value_features))
        cache.rows = cache.accept(rows.to(k.dtype), values, asked.lengths)
    queries = mapped(made, turned(made, made.query.canonical(q), at, 0, precision), False)
    bound = assembled(made, (queries, mapped(made, rows, False), values), at, asked.want, 0.0, 0, False)
    bound.recurrence = Recurrence(cache.state.memory, cache.state.total)
    bound.after = lambda: _remembered(cache, bound, asked.num_new, positions)
    return bound, chosen


def _remembered(cache: Recurrent, bound: Bound, count: int, positions: int | Tensor | None) -> None:
    made = bound.recurrence
    if made is not None and made.memory is not None and made.total is not None:
        fades = bound.lowered.decay is not None
        cache.remember(made.memory.detach(), made.total.detach(), count, positions, fades=fades)
