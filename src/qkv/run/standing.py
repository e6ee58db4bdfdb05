"""Where queries and keys of a call with a cache stand, and whether its mask asks for keys that were dropped.

Positions come from the cache; ``positions=`` may say others for the new tokens. This module knows places; it refuses
to know how a cache keeps its keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ..errors import CacheError, PositionError
from ..terms.expr import is_relative
from ..terms.interval import Block, Interval, bounds
from .places import Place, place_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..cache import Cache
    from ..cache.protocol import View
    from .bind import Frame
    from .places import Places


FAR = 2.0**48
"""More tokens than any sequence has; differences of positions are whole numbers still."""


def new_positions(made: Frame, positions: Mapping[str, Any] | None, cache: Cache) -> tuple[Place, int | Tensor | None]:
    """The place of the new keys for their rotation, and their positions as a cache is told (None: behind the others).

    ``made`` has the number of new tokens as the size of the key. What ``positions`` says of the queries holds for the
    new keys, which are the same tokens, unless it names the keys.
    """
    lowered, sizes = made.lowered, made.sizes
    key = lowered.key[0]
    given = said(made, positions)
    queries = [q for q, k in sorted(lowered.relations) if k == key and sizes[q] == sizes[key]]
    name = key if key in given else next((q for q in queries if q in given), None)
    if name is None:
        at = cache.following(sizes[key])
        return Place(offset=at) if isinstance(at, int) else place_along(made, key, at), None
    place = given[name]
    if name != key:
        place = _moved(made, place, name, key)
    if place.components is not None:  # a rotation's components say nothing of the order
        return place, None
    return place, place.offset if place.given is None else _by_sequence(made, key, place.given)


def query_places(made: Frame, positions: Mapping[str, Any] | None, view: View, num_new: int) -> dict[str, Place]:
    """Each query sequence's place: as said, or where the last of the keys stand."""
    lowered, sizes = made.lowered, made.sizes
    places = {n: p for n, p in said(made, positions).items() if n not in lowered.key}
    for query, key in sorted(lowered.relations):
        at = places.get(query)
        if at is not None and (at.components is None or (query, key) not in lowered.compared):
            continue
        count, most = sizes[query], num_new or view.standing.count
        if count > most:
            raise PositionError(
                f"nothing says where the queries stand.\n    queries: {query}={count}\n"
                f"    tokens:  {most} {'new ones' if num_new else 'in the cache'}\n"
                f'  Queries stand at the last tokens; give positions={{"{query}": first}} for others.'
            )
        where = view.ends(count, num_new)
        place = Place(offset=where) if isinstance(where, int) else place_along(made, query, where)
        places[query] = place if at is None else Place(offset=place.offset, given=place.given, components=at.components)
    return places


def key_place(made: Frame, view: View) -> Place:
    """Where the keys stand."""
    standing = view.standing
    if standing.given is None:
        return Place(offset=standing.first)
    return place_along(made, made.lowered.key[0], standing.given)


def check_dropped(cache: Cache, made: Frame, view: View, places: Places) -> None:
    """``CacheError`` when the mask may keep a key that the cache has dropped."""
    dropped = cache.length - view.standing.count
    if dropped <= 0 or 0 in made.sizes.values():
        return
    standing = view.standing
    first = standing.first if standing.given is None else int(standing.given.min())
    low = max(0, first - dropped) if standing.given is None else -np.inf
    if _keeps_before(made, places, first, low, -float(dropped)):
        refuse_dropped(cache, made, standing.count)


def forgets(made: Frame, places: Places) -> bool:
    """Whether the mask keeps no key before those that are held, be it ``FAR`` before, wherever the sequence goes on."""
    lowered, (key,) = made.lowered, made.lowered.key
    if lowered.keep is None or 0 in made.sizes.values():
        return False
    moving = frozenset((key, *(query for query, _ in lowered.relations)))
    first = places.places.get(key, Place()).offset
    return is_relative(lowered.keep, moving) and not _keeps_before(made, places, first, -FAR, -FAR)


def _keeps_before(made: Frame, places: Places, first: int, low: float, index: float) -> bool:
    """Whether the mask may keep a key before ``first``, from position ``low`` and from ``index`` on."""
    if made.lowered.keep is None:
        return True
    key = made.lowered.key[0]
    indices, at = places.bounds({})
    indices[key] = Interval.of(index, -1.0)
    at[key] = Interval.of(low, first - 1.0)
    return bool(np.any(bounds(made.lowered.keep, Block(indices, at, made.sizes)).high))


def refuse_dropped(cache: Cache, made: Frame, count: int) -> NoReturn:
    """``CacheError``: the mask asks for keys that are gone."""
    raise CacheError(
        f"keep={made.spec.keep!r} may keep tokens that the {cache.kind} cache has dropped: it holds the last "
        f"{count} of {cache.length}.\n"
        "  Give the spec the cache's window, keep=qkv.causal() & qkv.window(n), or use a larger or a dense cache."
    )


def said(made: Frame, positions: Mapping[str, Any] | None) -> dict[str, Place]:
    """The places that ``positions=`` names, checked."""
    lowered = made.lowered
    names = (*lowered.shared, *lowered.query_order, *lowered.key)
    found: dict[str, Place] = {}
    for name, value in (positions or {}).items():
        if name not in (*lowered.query_order, *lowered.key):
            raise PositionError(
                f'positions: "{name}" is not a query or key coordinate.\n    scores have: {" ".join(names)}\n'
                "  Name the query or the key coordinate."
            )
        found[name] = place_of(name, value, names, made.sizes, made.device)
    return found


def place_along(made: Frame, name: str, positions: Tensor) -> Place:
    """Positions ``[size]`` or ``[batch, size]`` over the axes of a score."""
    axes = made.axes
    shape = [1] * len(axes)
    shape[axes.index(name)] = positions.shape[-1]
    if positions.dim() == 2 and made.lowered.shared:
        shape[axes.index(made.lowered.shared[0])] = positions.shape[0]
    return Place(given=positions.to(made.device).reshape(shape))


def _moved(made: Frame, place: Place, name: str, key: str) -> Place:
    """A query sequence's place along the key instead."""

    def moved(x: Tensor) -> Tensor:
        lead = x.dim() - len(made.axes)
        return x.transpose(lead + made.axes.index(name), lead + made.axes.index(key))

    return Place(
        place.offset,
        None if place.given is None else moved(place.given),
        None if place.components is None else moved(place.components),
    )


def _by_sequence(made: Frame, key: str, given: Tensor) -> Tensor:
    """Positions over the axes of a score as ``[size]`` or ``[batch, size]``, which is what a cache keeps."""
    at = made.axes.index(key)
    batch = made.axes.index(made.lowered.shared[0]) if made.lowered.shared else None
    others = [n for n, size in enumerate(given.shape) if size != 1 and n not in (at, batch)]
    if others:
        raise PositionError(
            f"positions of new tokens differ along {' '.join(made.axes[n] for n in others)}.\n"
            f'  A cache keeps them by sequence: give (tensor, "{made.axes[batch or 0]} {key}").'
        )
    rows = 1 if batch is None else given.shape[batch]
    flat = given.movedim(at, -1).reshape(rows, -1)
    return flat[0] if rows == 1 else flat
