"""Calls with a recurrent cache: the new tokens alone, and the sums over those before.

It knows when a sum can answer a call; it refuses to know how sums are taken.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..cache import Recurrent
from ..errors import SpecError
from ..plan import Plan, choose, forced
from ..terms.weights import Linear
from .asked import Asked, check_seal, request_for
from .bind import Bound, Recurrence, assembled, mapped, precision_of, turned
from .layout import flatten_last
from .masks import is_plain_causal
from .places import Place, Places
from .standing import new_positions, place_along, said

if TYPE_CHECKING:
    from torch import Tensor


def recurring(asked: Asked, cache: Recurrent, q: Tensor, k: Tensor | None, v: Tensor | None) -> tuple[Bound, Plan]:
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
    check_seal(cache, spec.position, made, place)
    at = Places(made.axes, made.sizes, places, made.device)
    relation = (
        "equal" if asked.num_new == 0 or all(made.sizes[n] == asked.num_new for n, _ in lowered.relations) else ""
    )
    chosen = choose(request_for(asked, q, cache.storage, relation), forced())
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
    bound.recurrence = _sums(cache, len(lowered.shared), len(lowered.query_order) - 1)
    bound.after = lambda: _remembered(cache, bound, asked.num_new, positions)
    return bound, chosen


def _sums(cache: Recurrent, shared: int, groups: int) -> Recurrence:
    """The sums so far, with an axis for each group of heads."""
    memory, total = cache.state.memory, cache.state.total
    if memory is None or total is None:
        return Recurrence()
    for _ in range(shared + groups + 2 - memory.dim()):
        memory, total = memory.unsqueeze(shared), total.unsqueeze(shared)
    return Recurrence(memory, total)


def _remembered(cache: Recurrent, bound: Bound, count: int, positions: int | Tensor | None) -> None:
    made = bound.recurrence
    if made is not None and made.memory is not None and made.total is not None:
        fades = bound.lowered.decay is not None
        cache.remember(made.memory.detach(), made.total.detach(), count, positions, fades=fades)
