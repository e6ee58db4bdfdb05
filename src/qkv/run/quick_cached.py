"""Calls with a cache seen before, straight to the compiled core: a token's step is too short to be planned anew.

What is remembered lies with the cache: the core's object for its storage, the programs' graph, and how queries stand
behind the last key. Lengths, positions and addresses are read at each call. This module knows which calls that holds
for: plain tensors without gradients, keys that are not turned, masks and scores of the library's own tables, caches
whose tokens stand one behind the other. All others it leaves alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ..cache import Dense, Quantized, Ring
from ..terms.expr import Index, Size, coordinates_read, walk
from ..terms.weights import Sigmoid, Softmax
from .fused import Pass, output_like
from .quick import signature
from .scores import outside_error
from .signature import Shape, row_order
from .stored import plain_stored
from .tile_program import compiled, described, readable

if TYPE_CHECKING:
    from torch import Tensor

    from ..cache import Cache
    from ..cache.slots import Slots
    from ..core import Attention, Graph, Terms
    from ..plan import Plan
    from ..terms.expr import Lookup
    from .bind import Bound

REMEMBERED = 32
"""How many calls a cache remembers; the oldest is forgotten first."""

KINDS = frozenset({Dense, Quantized, Ring})
"""The caches whose tokens stand one behind the other."""

NOTHING = 0
"""The core's verdict of a mask that keeps nothing."""


@dataclass(slots=True)
class Known:
    """One call. ``coordinates`` are (role, size, step, offset) as the graph was bound last; ``key`` and ``behind`` say
    which of them follow the cache: the key's size and offset, and each query's distance from the end.
    """

    spec: object
    bound: Bound
    graph: Graph | None
    coordinates: list[tuple[int, int, int, int]]
    key: int
    behind: dict[int, int]
    tables: list[tuple[int, int, list[int], list[int], bool]]
    alive: list[Tensor]
    lookups: dict[int, Lookup]
    guards_dropped: bool
    orders: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    shape: tuple[int, ...]
    dtype: torch.dtype
    calls: dict[Any, Attention] = field(default_factory=dict[Any, "Attention"])


def answer(spec: object, q: Any, k: Any, v: Any, cache: Any) -> Tensor | None:
    """The output of a call that is known, the tokens appended; None where it is not known."""
    if type(cache) not in KINDS:
        return None
    key = signature((spec,), q, k, v)
    known: Known | None = None if key is None else cache.remembered.get(key)
    if known is None or cache.standing.given is not None or torch.is_autocast_enabled("cpu"):
        return None
    before = cache.snapshot()
    try:
        for_keys, for_values = known.orders
        cache.extend(k if for_keys is None else k.permute(for_keys), v if for_values is None else v.permute(for_values))
        output = _run(known, q, cache)
        cache.settle()
    except BaseException:
        cache.restore(before)
        raise
    return output


def _run(known: Known, q: Tensor, cache: Any) -> Tensor | None:
    keys, values, start = cache.slots
    standing = cache.standing
    terms = None if known.graph is None else _terms(known, known.graph, standing.count, standing.first)
    if known.guards_dropped:
        _check_dropped(known, cache)
    storage = (keys.data.stride(), values.data.stride(), keys.num_slots)
    call = known.calls.get(storage)
    if call is None:
        if len(known.calls) >= REMEMBERED:
            known.calls.clear()
        call = known.calls[storage] = _made(known, keys, values, ring=type(cache) is Ring)
    output = torch.empty(known.shape, dtype=known.dtype)
    coded = keys.scale is not None
    outside = call.forward(
        q=q.data_ptr(),
        k=keys.data.data_ptr(),
        v=values.data.data_ptr(),
        out=output.data_ptr(),
        terms=terms,
        num_threads=torch.get_num_threads(),
        k_scale=keys.scale.data_ptr() if coded else 0,
        v_scale=values.scale.data_ptr() if coded else 0,
        ring_start=start,
        num_keys=standing.count,
    )
    if outside >= 0:
        raise outside_error(known.lookups[outside])
    return output


def _terms(known: Known, graph: Graph, count: int, first: int) -> Terms:
    """The programs over ``count`` keys that stand from ``first`` on."""
    coordinates = known.coordinates
    role, _, step, _ = coordinates[known.key]
    coordinates[known.key] = (role, count, step, first)
    for n, behind in known.behind.items():
        role, size, step, _ = coordinates[n]
        coordinates[n] = (role, size, step, first + count - behind)
    return graph.bind(coordinates, known.tables, known.dtype == torch.float64, known.alive)


def _check_dropped(known: Known, cache: Any) -> None:
    """Asks the mask about the tokens that the cache has dropped; the call's own check words the error."""
    from .standing import refuse_dropped

    standing = cache.standing
    dropped = cache.length - standing.count
    if dropped <= 0:
        return
    if known.graph is not None and standing.first >= dropped:
        asked = list(known.coordinates)
        role, _, step, _ = asked[known.key]
        asked[known.key] = (role, dropped, step, standing.first - dropped)
        terms = known.graph.bind(asked, known.tables, known.dtype == torch.float64, known.alive)
        if terms.verdict(0, 0, _num_rows(known), 0, dropped) == NOTHING:
            return
    refuse_dropped(cache, known.bound.frame, standing.count)


def _num_rows(known: Known) -> int:
    bound = known.bound
    return Shape.of(bound, bound.q, bound.v).num_rows


def _made(known: Known, keys: Slots, values: Slots, *, ring: bool) -> Attention:
    """The core's object for this storage."""
    bound = known.bound
    shape = Shape.of(bound, bound.q, bound.v)
    placed = plain_stored(shape, keys, values, ring=ring)
    job = Pass.of(bound, known.dtype)
    views = {
        **placed.views,
        "q": shape.by_row(bound.q, True),
        "out": shape.by_row(output_like(job, shape, known.dtype), True),
    }
    return shape.with_keys(keys.num_slots).signature(
        bound, bound.q.dtype, 0, views, key_element=placed.element, placing=placed.placing, out=known.dtype
    )


def remember(spec: Any, q: Tensor, k: Any, v: Any, cache: Cache, bound: Bound, plan: Plan) -> None:
    """Makes a call known after it ran, if it is one of those that can be."""
    lowered, made = bound.lowered, bound.frame
    if (
        plan.strategy != "cpu"
        or type(cache) not in KINDS
        or k is None
        or v is None
        or cache.standing.given is not None
        or bound.want
        or bound.dropout
        or spec.position is not None
        or not isinstance(spec.weights, Softmax | Sigmoid)
        or lowered.sink is not None
        or lowered.projections
        or lowered.row_table is not None
        or len(lowered.value_features) != 1
        or len(lowered.features) != 1
        or not all(table.movable for table in lowered.captured)
        or made.key.splits
        or made.value.splits
        or any(place.given is not None or place.components is not None for place in bound.places.places.values())
        or 0 in made.sizes.values()
        or bound.q.data_ptr() != q.data_ptr()
    ):
        return
    key = signature((spec,), q, k, v)
    guards = type(cache) is Ring and lowered.keep is not None
    if key is None or (guards and not _is_about_positions(bound)):
        return
    if type(cache) is Ring and lowered.keep is None:
        return
    known = _known(spec, bound, guards_dropped=guards)
    if known is None:
        return
    if len(cache.remembered) >= REMEMBERED:
        cache.remembered.pop(next(iter(cache.remembered)), None)
    cache.remembered[key] = known


def _is_about_positions(bound: Bound) -> bool:
    """Whether the mask reads positions of queries and keys alone: then dropped keys can be asked about by their own."""
    lowered = bound.lowered
    keep = lowered.keep
    if keep is None or coordinates_read(keep) & set(lowered.shared):
        return False
    return not any(isinstance(node, Index | Size) for node in walk(keep))


def _known(spec: object, bound: Bound, *, guards_dropped: bool) -> Known | None:
    lowered, made = bound.lowered, bound.frame
    key = lowered.key[0]
    graph, coordinates, tables, alive, lookups = None, list[tuple[int, int, int, int]](), [], [], dict[int, Any]()
    behind: dict[int, int] = {}
    at = 0
    if lowered.keep is not None or lowered.score is not None:
        program = compiled(bound)
        places = bound.places.places
        end = places[key].offset + made.sizes[key]
        coordinates = program.coordinates(bound, row_order(lowered))
        at = program.names.index(key)
        related = {query for query, of in lowered.relations if of == key}
        behind = {n: end - coordinates[n][3] for n, name in enumerate(program.names) if name in related}
        alive = [readable(bound.tables.get(table, table.tensor)) for table in program.tables]
        tables = [described(x, table in program.learnt) for x, table in zip(alive, program.tables, strict=True)]
        graph, lookups = program.graph, program.lookups
    orders = (None if made.key.plain else made.key.order, None if made.value.plain else made.value.order)
    return Known(
        spec,
        bound,
        graph,
        coordinates,
        at,
        behind,
        tables,
        alive,
        lookups,
        guards_dropped,
        orders,
        made.output.shape,
        made.dtype,
    )
