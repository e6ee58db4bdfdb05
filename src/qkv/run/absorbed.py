"""Strategy ``absorbed``: multi-head latent attention against the latents, without keys and values of their own.

``q . (U_k c) = (U_k^T q) . c``: queries are taken through the keys' up-projection, attend to the latents and rotary
keys as multi-query attention whose value is the latent, and the result goes through the values' up-projection. The
attention inside is planned like any other call. Source: DeepSeek-AI 2024 (arXiv 2405.04434), section 2.1.2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ..coords.pattern import parse
from ..coords.roles import roles
from ..errors import InternalError
from ..plan import Capability, Cost, Request, choose, find, unforced
from ..plan.cost import price
from ..spec import Lowered
from .bind import Bound, Frame
from .layout import Return
from .places import Place, Places
from .result import Computed

if TYPE_CHECKING:
    from torch import Tensor

    from ..cache import Latent


def _latents(request: Request) -> str | None:
    if "latent" not in request.storage:
        return "it reads a latent cache, and k and v are tensors"
    if request.lowered.projections or request.lowered.row_table is not None:
        return "shaw's tables have vectors of the whole feature, which latents have not"
    return None


class Absorbed:
    """Queries through the up-projection, attention to latents."""

    name = "absorbed"
    capability = Capability(
        weights=frozenset({"Softmax", "Sigmoid"}),
        want=frozenset({"lse", "max_logit", "entropy", "argmax"}),
        dropout=False,
        reads=frozenset({"latent"}),
        also=(_latents,),
    )

    def cost(self, request: Request) -> Cost:
        """Products with latents for every pair, and with both up-projections for every query."""
        latent_size, rotary_size = request.latent
        rows = request.num_shared * request.num_rows
        content = request.feature_size - rotary_size
        pairs = 2 * request.pairs * (2 * latent_size + rotary_size)
        ups = 2 * rows * latent_size * (content + request.value_size)
        batch = request.size(*request.lowered.shared[:-1])
        heads = request.size(*request.lowered.shared[-1:])
        moved = batch * request.num_keys * (latent_size + rotary_size) * request.element_bytes
        moved += heads * latent_size * (content + request.value_size) * request.element_bytes
        return price(pairs + ups, moved, 4 * rows * (2 * latent_size + rotary_size), efficiency=1.0, calls=8)

    def run(self, bound: Bound) -> Computed:
        """The output and whatever statistics were wanted."""
        if bound.latent is None:
            raise InternalError("absorbed runs on a latent cache, and there is none; please report this")
        inner, request = _inner(bound, bound.latent)
        with unforced():
            plan = choose(request, None)
            computed = find(plan.strategy).run(inner)
        shared, queries = len(bound.lowered.shared), len(bound.lowered.query_order)
        back = _before(shared, queries)
        output = computed.output.permute(*back, shared + queries).to(bound.working_dtype)
        _, up_v = bound.latent.ups(bound.working_dtype)
        # [b..., head, queries..., latent] x [head, e, latent]
        flat = output.flatten(shared, -2)
        output = (flat @ up_v.transpose(-1, -2)).reshape(*output.shape[:-1], up_v.shape[1])
        lse = None if computed.lse is None else computed.lse.permute(back)
        return Computed(output, lse, {name: x.permute(back) for name, x in computed.stats.items()})


def _before(shared: int, queries: int) -> list[int]:
    """The axes of an inner result, [b..., queries..., head], in the order of the outer: [b..., head, queries...]."""
    lead = shared - 1
    return [*range(lead), lead + queries, *range(lead, lead + queries)]


def _inner(bound: Bound, cache: Latent) -> tuple[Bound, Request]:
    """The call over latents: the head is one more query coordinate, as no key has it."""
    lowered = _without_head(bound.lowered)
    made = _frame(bound.frame, lowered, cache)
    working = bound.working_dtype
    dtype = working if bound.q.dtype != bound.k.dtype or bound.k.dtype == working else bound.q.dtype
    queries = _queries(bound, cache, working)
    places = _places(bound.places, made)
    rows = bound.k if dtype != working else bound.k.to(working)
    inner = replace(
        bound,
        frame=made,
        q=queries,
        k=rows if rows.dtype == queries.dtype else rows.to(queries.dtype),
        v=(rows if rows.dtype == queries.dtype else rows.to(queries.dtype))[..., : cache.latent_size],
        places=places,
        latent=None,
    )
    request = Request(
        spec=bound.spec,
        lowered=lowered,
        sizes=tuple(sorted(made.sizes.items())),
        dtype=str(queries.dtype).removeprefix("torch."),
        device=made.device.type,
        want=bound.want,
        requires_grad=torch.is_grad_enabled() and queries.requires_grad,
        captured_grad=torch.is_grad_enabled() and any(c.tensor.requires_grad for c in lowered.captured),
        transformed=False,
        relation="given" if lowered.relations else None,
        dropout=0.0,
    )
    return inner, request


def _queries(bound: Bound, cache: Latent, dtype: torch.dtype) -> Tensor:
    """Queries that fit the rows of the cache: ``[b..., queries..., head, latent + rotary]``."""
    shared, count = len(bound.lowered.shared), len(bound.lowered.query_order)
    q = bound.q.to(dtype)
    rotary_size = cache.rotary_size
    content = q.shape[-1] - rotary_size
    first = cache.rotary == "first"
    turned = q.narrow(-1, 0 if first else content, rotary_size)
    plain = q.narrow(-1, rotary_size if first else 0, content)
    up_k, _ = cache.ups(dtype)
    absorbed = (plain.flatten(shared, -2) @ up_k).reshape(*plain.shape[:-1], cache.latent_size)
    both = torch.cat((absorbed, turned), dim=-1)
    lead = shared - 1
    return both.permute(*range(lead), *range(shared, shared + count), lead, shared + count)


def _without_head(lowered: Lowered) -> Lowered:
    """The graphs over a pattern whose keys have no head. They are the same: graphs know names, not roles."""
    known = lowered.programs.get("without head")
    if known is None:
        shared, head, queries = lowered.shared[:-1], lowered.shared[-1], lowered.query_order
        (feature,), (value,), (key,) = lowered.features, lowered.value_features, lowered.key
        text = (
            f"{' '.join((*shared, head, *queries, feature))}, {' '.join((*shared, key, feature))}, "
            f"{' '.join((*shared, key, value))} -> {' '.join((*shared, head, *queries, value))}"
        )
        pattern = parse(text)
        found = replace(roles(pattern), query_candidates=lowered.roles.query_candidates)
        known = replace(lowered, pattern=pattern, roles=found, shared=shared, query_order=(*queries, head), programs={})
        lowered.programs["without head"] = known
    return known


def _frame(outer: Frame, lowered: Lowered, cache: Latent) -> Frame:
    """Sizes of latents; layouts are not used, as everything is in canonical order already."""
    (feature,), (value,) = lowered.features, lowered.value_features
    sizes = {**outer.sizes, feature: cache.latent_size + cache.rotary_size, value: cache.latent_size}
    rows = (*lowered.shared, *lowered.query_order)
    output = Return.of(lowered.pattern.output, sizes, (*rows, value))
    return replace(outer, lowered=lowered, sizes=sizes, output=output)


def _places(outer: Places, made: Frame) -> Places:
    """The same places with the head behind the queries."""
    order = [outer.names.index(n) for n in made.axes]
    found: dict[str, Place] = {}
    for name, place in outer.places.items():
        given = None if place.given is None else place.given.permute(order)
        found[name] = Place(place.offset, given, None)
    return Places(made.axes, made.sizes, found, made.device)
