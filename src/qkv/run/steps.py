"""Decoding steps seen before, straight to the compiled core: a few queries over what a cache holds.

A step is known by its spec, its queries' layout and the layout of the cache's storage, not by how many tokens there
are: the core's object is made for all slots and told how many are in use, and the layers of a model share it.
Programs of masks are bound again when the number of tokens changes. This module knows which calls that holds for:
dense, quantized, ring and paged caches whose positions are consecutive and whose sequences are of one length, without
gradients, rotations or options, for the output and the rows' lse. All others it leaves alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from ..cache import Cache, Dense, Paged, Quantized, Ring
from ..plan import Plan, forced
from .backward import Seen, versions
from .bind import check_claims
from .fused import Pass, output_like
from .ordinary import ordinary
from .places import Place, Places
from .quick import is_plain, maker
from .result import Result
from .scores import by_row, outside_error
from .signature import Shape
from .standing import check_dropped, forgets
from .stored import placed, plain
from .tile_program import FlatTable, compiled, described, readable

if TYPE_CHECKING:
    from torch import Tensor

    from ..cache.newest import Recent
    from ..cache.slots import Slots
    from ..core import Attention, Terms
    from ..spec import Spec
    from .bind import Bound
    from .tile_program import Compiled

REMEMBERED = 64
"""How many steps a spec remembers; the oldest is forgotten first."""

_threads = torch.get_num_threads
_KINDS = (Dense, Quantized, Ring, Paged)
_UNTURNED = (None, 0)
"""The seal of a cache whose keys went through no rotation."""

MOST_ROWS = 4096
"""Queries of a step, those of a head group counted one by one; more take longer than what is saved."""


Moment = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Quick:
    """Programs whose graph is bound again by numbers alone: ``coordinates`` as the core is told them, ``key`` the one
    whose size and first position change, ``behind`` how far from the end of the keys each query begins.
    """

    program: Compiled
    coordinates: list[tuple[int, int, int, int]]
    key: int
    behind: dict[int, int]
    tables: list[FlatTable]
    alive: list[Tensor]
    wide: bool

    @staticmethod
    def of(bound: Bound, program: Compiled, order: Sequence[str]) -> Quick | None:
        """None where a call's binding needs more: tensors of the caller's."""
        lowered, (key,) = bound.lowered, bound.lowered.key
        if not program.shareable:
            return None
        coordinates = program.coordinates(bound, tuple(order))
        end = bound.places.places.get(key, Place()).offset + bound.frame.sizes[key]
        related = {query for query, _ in lowered.relations}
        behind = {n: end - coordinates[n][3] for n, name in enumerate(program.names) if name in related}
        alive = [readable(bound.tables.get(table, table.tensor)) for table in program.tables]
        tables = [described(x, table in program.learnt) for x, table in zip(alive, program.tables, strict=True)]
        wide = bound.working_dtype == torch.float64
        return Quick(program, coordinates, program.names.index(key), behind, tables, alive, wide)

    def terms(self, count: int, first: int) -> Terms:
        """The programs over ``count`` keys that stand from ``first`` on."""
        now = list(self.coordinates)
        role, _, step, _ = now[self.key]
        now[self.key] = (role, count, step, first)
        for n, behind in self.behind.items():
            role, size, step, _ = now[n]
            now[n] = (role, size, step, first + count - behind)
        return self.program.graph.bind(now, self.tables, self.wide, self.alive)


@dataclass(slots=True)
class Step:
    """One kind of step: the core's object, ``bound`` as the template of a call, without its tensors, and what makes
    the tensors that come out; ``level``, the lse's, is None where it is not wanted.

    ``now`` is a moment (how many keys there are, where the first stands, how many were seen) with its programs: one
    object that is replaced, so that threads which share a spec never meet the programs of another's moment.
    ``steady`` tells that no captured tensor has the keys' number for a size, to which each step would have to be held.
    ``held`` is a number of keys before which the mask is known to keep none, wherever they stand.
    """

    call: Attention
    bound: Bound
    plan: Plan
    output: Callable[[], Tensor]
    level: Callable[[], Tensor] | None
    program: Compiled | None
    order: Sequence[str]
    sink: Tensor | None
    versions: Seen
    now: tuple[Moment, Terms | None]
    quick: Quick | None
    steady: bool
    held: int | None = None

    def terms(self, cache: Cache, moment: Moment) -> Terms | None:
        """The programs for this many keys. Raises what the call would raise."""
        known, terms = self.now
        if known != moment:
            terms = self._made(cache, moment)
            self.now = (moment, terms)
        return terms

    def _made(self, cache: Cache, moment: Moment) -> Terms | None:
        held, first, seen = moment
        if self.steady and held in (seen, self.held):
            if self.program is None:
                return None
            if self.quick is not None:
                return self.quick.terms(held, first)
        bound, made = self.bound, self.bound.frame
        (key,) = made.lowered.key
        sizes = {**made.sizes, key: held}
        check_claims(made.lowered, sizes)
        places = {key: Place(offset=first)}
        for query, _ in made.lowered.relations:
            places[query] = Place(offset=first + held - sizes[query])
        made = replace(made, sizes=sizes)
        at = Places(made.axes, sizes, places, made.device)
        check_dropped(cache, made, cache.view(), at)
        if seen != held and forgets(made, at):
            self.held = held
        return None if self.program is None else self.program.bind(replace(bound, frame=made, places=at), self.order)


@dataclass(frozen=True, slots=True)
class Append:
    """How new keys and values become a cache's rows: the orders of their axes, None where they are in order."""

    keys: tuple[int, ...] | None
    values: tuple[int, ...] | None


def may_append(spec: Spec, q: Any, k: Any, v: Any, cache: Any) -> bool:
    """Whether tokens like these were appended before by this spec, to a cache of this kind."""
    appends = spec.__dict__.get("_appends")
    if appends is None or type(cache) not in _KINDS or cache.state.standing.given is not None:
        return False
    known = ordinary(q, k, v) and q.dtype == k.dtype and _shapes(q, k, v) in appends
    even = type(cache) is not Paged or not cache.state.uneven
    sealed = cache.rows is not None and cache.seal == _UNTURNED
    return known and even and sealed and not torch.is_autocast_enabled("cpu")


def append(spec: Spec, q: Tensor, k: Tensor, v: Tensor, cache: Any) -> None:
    """Extends the cache by tokens that ``may_append`` said yes to."""
    found: Append = spec.__dict__["_appends"][_shapes(q, k, v)]
    keys = k if found.keys is None else k.permute(found.keys)
    values = v if found.values is None else v.permute(found.values)
    cache.extend(keys.detach(), values.detach())


def _shapes(q: Tensor, k: Tensor, v: Tensor) -> tuple[Any, ...]:
    return (q.shape, k.shape, v.shape, k.dtype, v.dtype)


def answer(spec: Spec, q: Any, cache: Any, *, lse: bool = False) -> Result | None:
    """The result of a step that is known, with the rows' lse where it is wanted."""
    known = spec.__dict__.get("_steps")
    if known is None:
        return None
    held = _held(q, cache)
    if held is None:
        return None
    key = _key(q, cache, held, lse)
    step: Step | None = known.get(key)
    if step is None:
        return None
    if step.versions and any(tensor._version != n for _, tensor, n in step.versions):
        known.pop(key, None)
        return None
    standing = cache.state.standing
    moment = (standing.count, standing.first, cache.length)
    terms = step.terms(cache, moment)
    keys, values, sink = held.keys, held.values, step.sink
    output = step.output()
    level = None if step.level is None else step.level()
    outside = step.call.forward(
        q=q.data_ptr(),
        k=keys.data.data_ptr(),
        v=values.data.data_ptr(),
        out=output.data_ptr(),
        lse=0 if level is None else level.data_ptr(),
        sink=0 if sink is None else sink.data_ptr(),
        terms=terms,
        num_threads=_threads(),
        k_scale=0 if keys.scale is None else keys.scale.data_ptr(),
        v_scale=0 if values.scale is None else values.scale.data_ptr(),
        pages=0 if held.pages is None else held.pages.data_ptr(),
        ring_start=held.start,
        num_keys=standing.count,
        k_recent=0 if held.recent is None else held.recent.keys.data.data_ptr(),
        v_recent=0 if held.recent is None else held.recent.values.data.data_ptr(),
        recent_first=0 if held.recent is None else held.recent.first,
    )
    if outside >= 0 and step.program is not None:
        raise outside_error(step.program.lookups[outside])
    return Result(output, None if level is None else step.bound.frame.row.apply(level), {}, step.plan)


class _Held(NamedTuple):
    """A cache's storage: keys and values, the table of pages or None, the slot of a ring's first key, and the newest
    rows beside codes or None.
    """

    keys: Slots
    values: Slots
    pages: Tensor | None
    start: int
    recent: Recent | None


def _held(q: Any, cache: Any) -> _Held | None:
    """None where a step is not one for this way."""
    if type(cache) not in _KINDS or not ordinary(q, q, q):
        return None
    state: Any = cache.state
    if state.standing.given is not None:
        return None
    if type(cache) is Paged:
        found = cache.reading()
        return None if found is None else _Held(*found, 0, None)
    if state.keys is None or state.values is None:
        return None
    return _Held(state.keys, state.values, None, getattr(state, "start", 0), getattr(state, "recent", None))


def _key(q: Tensor, cache: Any, held: _Held, lse: bool) -> tuple[object, ...]:
    """What the step is known by beside its spec."""
    k, v = held.keys.data, held.values.data
    table = None if held.pages is None else held.pages.shape
    recent = None if held.recent is None else (held.recent.keys.data.shape, held.recent.keys.dtype)
    layout = (k.shape, v.shape, k.stride(), v.stride(), k.dtype, table, recent)
    return (q.shape, q.stride(), q.dtype, cache.kind, layout, lse, forced())


def remember(spec: Spec, q: Tensor, k: Any, v: Any, cache: Cache, bound: Bound, plan: Plan) -> None:
    """Makes a step known after it ran, if it is one of those that can be; with ``k`` and ``v`` their appending too."""
    lowered, made = bound.lowered, bound.frame
    held = _held(q, cache)
    if (
        held is None
        or bound.want - {"lse"}
        or bound.given
        or not is_plain(bound, plan)
        or len(lowered.key) != 1
        or not made.dtype == bound.q.dtype == bound.k.dtype == bound.v.dtype
        or bound.q.data_ptr() != q.data_ptr()
        or not _at_the_end(bound)
    ):
        return
    shape = Shape.of(bound, bound.q, bound.v)
    if shape.is_empty or shape.num_rows > MOST_ROWS or shape.lead:
        return
    plain_rows = not made.key.splits and not made.value.splits and len(lowered.features) == 1
    if k is not None and plain_rows:
        appends: dict[Any, Append] = spec.__dict__.setdefault("_appends", {})
        if len(appends) >= REMEMBERED:
            appends.pop(next(iter(appends)), None)
        orders = (None if x.plain else x.order for x in (made.key, made.value))
        appends[_shapes(q, k, v)] = Append(*orders)
    standing: Any = cast("Any", cache).state.standing
    slots = held.keys.num_slots if held.pages is None else held.pages.shape[1] * held.keys.num_slots
    kept = plain(shape, bound.k, bound.v) if bound.stored is None else placed(shape, *bound.stored)
    job, wants_lse = Pass.of(bound, bound.v.dtype), "lse" in bound.want
    if wants_lse and not job.has_lse:
        return
    sink = None if lowered.sink is None else by_row(bound, lowered.sink, bound.working_dtype)
    sink = None if sink is None else sink.to(bound.working_dtype).expand(shape.rows)
    views = {
        **kept.views,
        "q": shape.by_row(bound.q, True),
        "out": shape.by_row(output_like(job, shape, job.dtype), True),
    }
    if sink is not None:
        views["sink"] = shape.by_row(sink, False)
    if wants_lse:
        views["lse"] = shape.by_row(torch.empty(shape.rows, dtype=bound.working_dtype), False)
    call = replace(shape, keys=(slots,)).signature(
        bound,
        bound.q.dtype,
        0,
        views,
        key_element=kept.element,
        placing={"ring_slots": [slots]} if isinstance(cache, Ring) else kept.placing,
        out=job.dtype,
    )
    nothing = bound.q.new_empty(())
    template = replace(bound, q=nothing, k=nothing, v=nothing, stored=None)
    _, terms = job.terms(shape)
    program = None if terms is None else compiled(bound)
    steps: dict[Any, Step] = spec.__dict__.setdefault("_steps", {})
    if len(steps) >= REMEMBERED:
        steps.pop(next(iter(steps)), None)
    order = [lowered.query_order[n] for n in shape.order]
    steps[_key(q, cache, held, wants_lse)] = Step(
        call,
        template,
        plan,
        maker(made.output.shape, made.dtype),
        maker(shape.rows, bound.working_dtype) if wants_lse else None,
        program,
        order,
        sink,
        versions(bound),
        ((standing.count, standing.first, cache.length), terms),
        None if program is None else Quick.of(bound, program, order),
        not any(lowered.key[0] in names for claim in lowered.claims for names in claim.axes),
    )


def _at_the_end(bound: Bound) -> bool:
    """Whether all positions are numbers, and queries stand at the last keys."""
    places, sizes, (key,) = bound.places.places, bound.frame.sizes, bound.lowered.key
    if any(place.given is not None or place.components is not None for place in places.values()):
        return False
    end = places.get(key, Place()).offset + sizes[key]
    related = {query for query, _ in bound.lowered.relations}
    return all(
        (place.offset + sizes[name] == end) if name in related else name == key or not place.offset
        for name, place in places.items()
    )
