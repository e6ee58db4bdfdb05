"""Calls with a latent cache: rotary keys turned, and the choice between absorbing queries and rebuilding keys.

Few queries read the latents themselves (strategy ``absorbed``); for many it is cheaper to rebuild the keys and values
of all heads once and to attend to those by any strategy. Both ways have a price, and the lower one is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..cache import Latent
from ..cache.protocol import Rows
from ..errors import InternalError, ShapeError, SpecError
from ..plan import Cost, Plan, Request, choose, find, forced, refusals
from ..plan.cost import price
from .bind import Bound, Frame, assembled, precision_of, turned
from .places import Place, Places

if TYPE_CHECKING:
    from torch import Tensor

NAME = "absorbed"


@dataclass(frozen=True, slots=True)
class Call:
    """What a call says beside its cache and places."""

    made: Frame
    q: Tensor
    want: frozenset[str]
    dropout: float
    seed: int


def num_new(cache: Latent, latent: Tensor | None, rotary: Tensor | None) -> int:
    """How many tokens are appended. Raises ``ShapeError`` for latents and rotary keys that are none."""
    if latent is None or rotary is None:
        return 0
    if latent.dim() < 2 or rotary.dim() != latent.dim() or latent.shape[:-1] != rotary.shape[:-1]:
        raise ShapeError(
            f"a latent cache takes latents [b, j, {cache.latent_size}] in place of k and rotary keys [b, j, rotary] in "
            f"place of v.\n    k: {tuple(latent.shape)}\n    v: {tuple(rotary.shape)}\n"
            "  Both have the same tokens, and no head: a rotary size of 0 is a tensor [b, j, 0]."
        )
    return latent.shape[-2]


def rows_of(cache: Latent, latent: Tensor | None, rotary: Tensor | None) -> Rows:
    """The rows of the keys and values that would be rebuilt."""
    if latent is not None and rotary is not None:
        rows = Rows(tuple(latent.shape[:-2]), latent.shape[-1], rotary.shape[-1], latent.dtype, latent.device)
    elif cache.rows is not None:
        rows = cache.rows
    else:
        raise cache.empty("spec(q, cache=)")
    heads, content = cache.up_k.shape[:2]
    return replace(
        rows,
        shared=(*rows.shared, heads),
        feature_size=content + rows.value_size,
        value_size=cache.up_v.shape[1],
    )


def turned_rotary(new: Frame, cache: Latent, rotary: Tensor, place: Place) -> Tensor:
    """The rotary keys of new tokens, turned at their positions where the spec has a rotation."""
    rope, lowered = new.spec.position, new.lowered
    if rope is None:
        return rotary
    key, features = lowered.key[0], new.sizes[lowered.features[0]]
    if cache.rotary != "first" or rope.rotary_size(features) != rotary.shape[-1]:
        raise SpecError(
            f"{rope!r} turns the first {rope.rotary_size(features)} of {features} features, and the rotary part of the "
            f"cache is the {cache.rotary} {rotary.shape[-1]}.\n"
            '  Use qkv.mechanisms.latent.latent(...) and Latent(rotary="first"), or turn q and the rotary keys before.'
        )
    axes = lowered.shared[:-1]
    at = Places((*axes, key), new.sizes, {key: _without_head(new, place)}, new.device)
    standing = at.rotation(key, (*axes, key))
    whole = replace(rope, fraction=1.0)
    return whole.rotate(rotary.to(precision_of(new, False)), standing, length=at.largest(key)).to(rotary.dtype)


def _without_head(new: Frame, place: Place) -> Place:
    """A place over the shared axes less the head, and the key."""
    if place.given is None and place.components is None:
        return place
    names = new.axes
    kept = [names.index(n) for n in (*new.lowered.shared[:-1], new.lowered.key[0])]
    others = [n for n in range(len(names)) if n not in kept]

    def cut(x: Tensor | None) -> Tensor | None:
        if x is None:
            return None
        lead = x.dim() - len(names)
        moved = x.permute(*range(lead), *(lead + n for n in kept), *(lead + n for n in others))
        return moved.flatten(lead + len(kept))[..., 0]

    return Place(place.offset, cut(place.given), cut(place.components))


def decide(cache: Latent, request: Request) -> tuple[bool, Plan]:
    """Whether queries are absorbed, and the plan: what costs less, or what a forced strategy asks for.

    ``request`` is the call over rebuilt keys and values.
    """
    name = forced()
    latents = replace(request, storage=cache.storage, latent=(cache.latent_size, cache.rotary_size))
    if name is not None:
        return name == NAME, choose(latents if name == NAME else request, name)
    rebuilt, found = choose(request, None), find(NAME)
    reason = "; ".join(refusals(latents, found.capability))
    other = find(rebuilt.strategy).cost(request).seconds + _rebuilding(latents).seconds
    if reason:
        return False, replace(rebuilt, refused={**rebuilt.refused, NAME: reason})
    own = found.cost(latents).seconds
    if own > other:
        reason = f"estimated {own / other:.3g} x the time of {rebuilt.strategy} on rebuilt keys"
        return False, replace(rebuilt, refused={**rebuilt.refused, NAME: reason})
    plan = choose(latents, NAME)
    reason = f"estimated {other / own:.3g} x the time of {NAME}, on rebuilt keys"
    refused = {**rebuilt.refused, rebuilt.strategy: reason}
    refused.pop(NAME, None)
    return True, replace(plan, reason="the lowest estimated time", refused=refused)


def _rebuilding(request: Request) -> Cost:
    """Two products with the up-projections for every token, whose results are written."""
    latent_size = request.latent[0]
    sizes = request.feature_size - request.latent[1] + request.value_size
    rows = request.num_shared * request.num_keys
    return price(2 * rows * latent_size * sizes, rows * sizes * request.element_bytes, 0.0, calls=4)


def bound(call: Call, cache: Latent, places: Places, request: Request) -> tuple[Bound, Plan]:
    """The call bound to latents or to rebuilt keys, and its plan."""
    made = call.made
    lowered = made.lowered
    if len(lowered.features) != 1 or len(lowered.value_features) != 1 or not lowered.shared:
        raise SpecError(
            f"a latent cache serves one head coordinate and one feature; the pattern is {lowered.pattern.text}.\n"
            "  Write b h i d, b h j d, b h j e -> b h i e."
        )
    absorb, plan = decide(cache, request)
    exact = find(plan.strategy).capability.exact
    precision = precision_of(made, exact)
    queries = turned(made, made.query.canonical(call.q), places, 0, precision)
    if absorb:
        view = cache.view()
        keys, values = view.keys, view.values
        if not hasattr(keys, "dim") or not hasattr(values, "dim"):
            raise InternalError("a latent cache shows no tensors; please report this")
    else:
        keys, values = cache.expanded(precision)
    operands = (queries, keys, values)
    found = assembled(made, operands, places, call.want, call.dropout, call.seed, exact)  # pyright: ignore[reportArgumentType] - seen to be tensors
    found.latent = cache if absorb else None
    return found, plan
