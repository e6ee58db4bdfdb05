"""Calls with a cache: new keys turned and appended, queries placed among all keys, and everything taken back when the
call fails.

Prefill, prefill in parts and decoding are this one call. It knows the protocol of caches and the layout of calls; it
refuses to know how a cache keeps its keys, and how sums are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch

from ..cache import Cache, Latent, Recurrent, Stored
from ..cache.protocol import View
from ..errors import CacheError, SpecError
from ..plan import Plan, choose, find, forced
from ..spec import Lowered, Spec
from ..terms.expr import Index, Lookup, apply
from ..terms.weights import Linear
from . import dropout as dropping
from . import finite, latent, steps
from .asked import OPTIONS as OPTIONS
from .asked import Asked, ask, check_cache, check_seal, planned, relation_of, request_for
from .asked import concerns as concerns
from .asked import without as without
from .bind import Bound, Frame, assembled, mapped, parted, precision_of, turned
from .layout import flatten_last
from .places import Place, Places
from .recurring import recurring
from .requests import result_of
from .result import Result
from .standing import check_dropped, key_place, new_positions, query_places

if TYPE_CHECKING:
    from torch import Tensor


def output(spec: Spec, q: Any, k: Any, v: Any, options: Mapping[str, Any]) -> Any:
    """The output alone of one call; that of a step seen before comes straight from the core."""
    if len(options) == 1 and not torch.compiler.is_compiling():
        found = _known(spec, q, k, v, options["cache"], lse=False)
        if found is not None:
            return found.output
    called: Any = _general
    return called(spec, q, k, v, options).output


def run(spec: Spec, q: Any, k: Any, v: Any, options: Mapping[str, Any]) -> Result:
    """The result of one call; the cache holds the new tokens afterwards, or what it held before where this raises."""
    if len(options) == 2 and options.get("want") in _LSE and not torch.compiler.is_compiling():
        found = _known(spec, q, k, v, options["cache"], lse=True)
        if found is not None:
            return found
    return _general(spec, q, k, v, options)


_LSE: tuple[object, ...] = ("lse", ("lse",), ["lse"])


def _known(spec: Spec, q: Any, k: Any, v: Any, cache: Any, *, lse: bool) -> Result | None:
    """What a step seen before gives; None where it is none. Its reading may be new, as where storage has grown."""
    if k is None and v is None:
        return steps.answer(spec, q, cache, lse=lse)
    if k is None or not steps.may_append(spec, q, k, v, cache):
        return None
    before = cache.snapshot()
    try:
        steps.append(spec, q, k, v, cache)
        found = steps.answer(spec, q, cache, lse=lse)
        if found is None:
            found = _general(spec, q, None, None, {"cache": cache, **({"want": "lse"} if lse else {})})
        cache.settle()
    except BaseException:
        cache.restore(before)
        raise
    return found


def _run(spec: Spec, q: Any, k: Any, v: Any, options: Mapping[str, Any]) -> Result:
    """As ``run``, by a plan."""
    cache: Any = options["cache"]
    check_cache(cache, q, k, v)
    device = q.device.type if hasattr(q, "device") else "cpu"
    with torch.autocast(device, enabled=False):
        asked = ask(spec, q, k, v, cache, options)
        before = cache.snapshot()
        try:
            bound, plan = _appended(asked, q, k, v)
            result = result_of(bound.frame, bound, find(plan.strategy).run(bound), plan)
            bound.after()
            if not options.keys() - {"cache", "want"}:
                steps.remember(spec, q, k, v, cache, bound, plan)
            if k is not None:
                cache.settle()
        except BaseException:
            cache.restore(before)
            raise
    return result


# a cache changes, which no graph may hold
_general = cast("Callable[[Spec, Any, Any, Any, Mapping[str, Any]], Result]", torch.compiler.disable(_run))  # pyright: ignore[reportUnknownMemberType]


def plan(spec: Spec, q: Any, k: Any, v: Any, options: Mapping[str, Any]) -> Plan:
    """The plan of one call; nothing is appended."""
    cache: Any = options["cache"]
    check_cache(cache, q, k, v)
    asked = ask(spec, q, k, v, cache, options)
    if isinstance(cache, Latent):
        return latent.decide(cache, request_for(asked, q, frozenset(), "offset"))[1]
    equal = asked.num_new == sum(asked.made.sizes[n] for n in asked.made.lowered.key)
    return planned(spec, request_for(asked, q, cache.storage, "equal" if equal else "offset"))


def _appended(asked: Asked, q: Tensor, k: Tensor | None, v: Tensor | None) -> tuple[Bound, Plan]:
    """The call bound to all keys, the new ones appended, and its plan."""
    made, cache = asked.made, asked.cache
    key = made.lowered.key[0]
    if isinstance(cache, Recurrent):
        return recurring(asked, cache, q, k, v)
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
    relation = relation_of(made, places)
    if isinstance(cache, Latent):
        return latent.bound(asked.operands(q), cache, at, request_for(asked, q, frozenset(), relation))
    request = request_for(asked, q, cache.storage, relation)
    chosen = planned(made.spec, request)
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
        check_seal(cache, made.spec.position, new, place)
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
    check_seal(cache, rope, new, place)
    if rope is not None or rows.dim() != 2 + len(lowered.shared):
        if rope is not None:
            at = Places(new.axes, new.sizes, {lowered.key[0]: place}, new.device)
            rows = turned(new, rows, at, 1, precision_of(new, False))
        else:
            rows = flatten_last(rows, len(lowered.features) - (1 if lowered.branch else 0))
        if rows.dim() != 2 + len(lowered.shared):  # maps of differential weights: back beside one another
            rows = rows.movedim(0, -2).flatten(-2)
    return rows


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
        keys = parted(keys) if branches else keys
        keys = mapped(made, keys.to(precision) if isinstance(spec.weights, Linear) else keys, exact)
    seed = asked.options.get("seed")
    chosen = seed if seed is not None else dropping.draw_seed() if asked.dropout else 0
    bound = assembled(made, (queries, keys, values), places, asked.want, asked.dropout, chosen, exact)
    bound.stored = stored
    return bound
