"""One call, end to end: options checked, the plan found or remembered, the strategy run, the result brought into the
caller's layout.

This is the door that specs run through. A signature seen before skips every check that depends on shapes, dtypes and
devices alone.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from ..coords import Named
from ..errors import InternalError, SpecError
from ..plan import Plan, Request, choose, find, forced, strategy
from ..spec import DEFAULT_PATTERN, Spec, hang
from ..terms.worded import found
from . import cached, filling, finite, quick, traced
from . import dropout as dropping
from .bind import Bound, Frame, bind, check_dropout, check_tensors, frame
from .names import any_named, arranged, named_result, pattern_of
from .options import check_options, position_kinds, wanted
from .requests import request_of, result_of
from .result import Result

if TYPE_CHECKING:
    from torch import Tensor

    from ..cache import Cache
    from ..terms.keep import Keep
    from ..terms.position import Rope
    from ..terms.score import ScoreTerm
    from ..terms.weights import Weights

REMEMBERED = 256
"""How many signatures a spec remembers; the oldest is forgotten first."""

_autocast = torch.is_autocast_enabled


@dataclass(slots=True)
class Prepared:
    """What is remembered for a signature: the frame, the plan for each forced strategy and finiteness, and whether what
    fills openings needs gradients.
    """

    frame: Frame
    request: Request | None
    plans: dict[tuple[str | None, bool | None], Plan]
    learns_given: bool = False


def attention(
    q: Tensor | Named,
    k: Tensor | Named | None = None,
    v: Tensor | Named | None = None,
    pattern: str | None = None,
    *,
    position: Rope | None = None,
    score: ScoreTerm | Iterable[ScoreTerm] | None = None,
    keep: Keep | None = None,
    weights: Weights | None = None,
    scale: float | None = None,
    positions: Mapping[str, Any] | None = None,
    align: str | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    sizes: Mapping[str, int] | None = None,
    cache: Cache | None = None,
    lengths: Any = None,
    invariant: bool = False,
) -> Any:
    """Attention over named coordinates: the output of ``Spec(pattern, ...)(q, k, v)``.

    q, k, v: float tensors with the axes of ``pattern`` (default ``"b h i d, b h j d, b h j e -> b h i e"``, the layout
    of torch's SDPA), or three ``Named`` tensors, whose names then are the pattern. ``position``, ``score``, ``keep``,
    ``weights``, ``scale`` are the parts of a ``Spec``; ``positions``, ``align``, ``dropout``, ``seed``, ``sizes``,
    ``cache``, ``lengths``, ``invariant`` the options of ``Spec.run``; with a cache, k and v are the new tokens, or
    absent. A row that keeps nothing gives exactly 0; zero keys give 0; an empty batch an empty output.
    Raises the errors of ``qkv.errors``; never falls back silently.

    >>> import qkv, torch
    >>> q, k, v = torch.randn(1, 8, 5, 16), torch.randn(1, 2, 5, 16), torch.randn(1, 2, 5, 16)
    >>> qkv.attention(q, k, v, "b (h g) i d, b h j d, b h j e -> b (h g) i e", keep=qkv.causal()).shape
    torch.Size([1, 8, 5, 16])
    """
    tensors: tuple[Any, Any, Any] = (q, k, v)
    if cache is not None or invariant or lengths is not None or k is None or v is None:
        made = _spec(
            DEFAULT_PATTERN if pattern is None else pattern,
            position,
            tuple(score) if isinstance(score, list) else score,
            keep,
            weights,
            scale,
        )
        said = {"positions": positions, "align": align, "dropout": dropout, "seed": seed, "sizes": sizes}
        return made(q, k, v, **said, cache=cache, lengths=lengths, invariant=invariant)
    if traced.is_tracing():
        terms: tuple[Any, ...] = () if score is None else tuple(score) if isinstance(score, list | tuple) else (score,)
        words = tuple(None if part is None else part.word for part in (position, keep, weights))
        word = _traced_spec(pattern, words, tuple(term.word for term in terms), scale)
        options = {"positions": positions, "align": align, "dropout": dropout, "seed": seed, "sizes": sizes}
        return traced.traced(word, [], *tensors, options)[0]
    known = None
    said = () if align is positions is None else quick.said_by({"align": align, "positions": positions})
    if said is not None and sizes is seed is None and type(dropout) is float and not dropout:
        who = (id(pattern), id(position), id(score), id(keep), id(weights))
        known = quick.signature(who, q, k, v, scale, said)
        if known is not None:
            output = quick.answer(known, *tensors)
            if output is not None:
                return output
    if pattern is None:
        pattern = pattern_of(q, k, v) if any_named(q, k, v) else DEFAULT_PATTERN
    spec = _spec(
        pattern, position, score if score is None or not isinstance(score, list) else tuple(score), keep, weights, scale
    )
    if known is not None:
        options = {"align": align, "positions": positions} if said else {}
        return door.output(spec, q, k, v, options, quick.Alias(known, (pattern, position, score, keep, weights)))
    return spec(q, k, v, positions=positions, align=align, dropout=dropout, seed=seed, sizes=sizes)


_specs: dict[Any, Spec] = {}
atexit.register(_specs.clear)


def _spec(pattern: str, position: Any, score: Any, keep: Any, weights: Any, scale: Any) -> Spec:
    """The spec of these parts, made once; parts that cannot be hashed are left to the spec's own checks."""
    # 1.0 == True, and True is no scale.
    key = (pattern, position, score, keep, weights, scale, isinstance(scale, bool))
    try:
        known = _specs.get(key)
    except TypeError:
        return Spec(pattern, position=position, score=score, keep=keep, weights=weights, scale=scale)
    if known is None:
        known = Spec(pattern, position=position, score=score, keep=keep, weights=weights, scale=scale)
        if not known.captures:  # a remembered spec would keep its tensors alive
            if len(_specs) >= REMEMBERED:
                _specs.pop(next(iter(_specs)), None)
            _specs[key] = known
    return known


@torch.compiler.assume_constant_result  # pyright: ignore[reportUnknownMemberType]
def _traced_spec(
    pattern: str | None, words: tuple[str | None, ...], scores: tuple[str, ...], scale: float | None
) -> str:
    """The word of the spec whose parts have these words, which is kept for the graph that holds it.

    Raises ``SpecError`` for captured tensors that need gradients: a graph takes those from a spec made before.
    """
    position, keep, weights = (None if word is None else found(word) for word in words)
    score = tuple(found(word) for word in scores)
    made = _spec(DEFAULT_PATTERN if pattern is None else pattern, position, score or None, keep, weights, scale)
    if made.learned:
        raise SpecError(
            f"{made!r} learns tensors, and is made inside a compiled function, which would not see them.\n"
            "  Make the spec outside, in the module's __init__, and call it inside: spec(q, k, v)."
        )
    _traced_specs.append(made)
    return made.word


_traced_specs: list[Spec] = []


def _lacks(k: Any, v: Any) -> bool:
    return k is None or v is None


class Door:
    """Runs and plans specs."""

    def run(
        self, spec: Spec, q: Any, k: Any, v: Any, options: Mapping[str, Any], given: tuple[Tensor, ...] = ()
    ) -> Result:
        """The result of one call; ``given`` fills the spec's openings."""
        if cached.concerns(k, v, options):
            return cached.run(spec, q, k, v, options)
        options = cached.without(options)
        if traced.is_tracing() and not any_named(q, k, v):
            return _traced_result(spec, q, k, v, options)
        if any_named(q, k, v):
            pattern, laid, options = arranged(spec, q, k, v, options)
            result = self.run(spec, laid["q"], laid["k"], laid["v"], options)
            sizes = {name: size for tensor in (q, k, v) for name, size in tensor.sizes.items()}
            return named_result(pattern, sizes, result)
        check_tensors(q, k, v)
        if torch.is_autocast_enabled(q.device.type):
            with torch.autocast(q.device.type, enabled=False):  # it would round scores to 16 bits
                return self.run(spec, q, k, v, options, given)
        prepared, plan, bound = _ready(spec, q, k, v, options, given)
        computed = find(plan.strategy).run(bound)
        return result_of(prepared.frame, bound, computed, plan)

    def output(
        self, spec: Spec, q: Any, k: Any, v: Any, options: Mapping[str, Any], alias: quick.Alias | None = None
    ) -> Any:
        """The output alone of one call; ``alias`` is what it is known by beside its spec."""
        if options or _lacks(k, v):
            if cached.concerns(k, v, options):
                return cached.output(spec, q, k, v, options)
            options = cached.without(options)
        if traced.is_tracing():
            return traced.traced(spec.word, spec.learned, q, k, v, options)[0]
        said = quick.said_by(options) if options else ()
        known = None if said is None else quick.signature((id(spec),), q, k, v, None, said)
        if known is None or _autocast("cpu"):
            return self.run(spec, q, k, v, options).output
        output = quick.answer(known, q, k, v, quick.memory(spec))
        if output is not None:
            return output
        prepared, plan, bound = _ready(spec, q, k, v, options)
        computed = find(plan.strategy).run(bound)
        quick.remember(quick.Alias(known, (spec,)), alias, bound, plan, (q, k, v))
        return result_of(prepared.frame, bound, computed, plan).output

    def filled(self, spec: Spec, q: Any, k: Any, v: Any, options: Mapping[str, Any], given: tuple[Tensor, ...]) -> Any:
        """The output alone of one call whose spec has openings, filled in their order."""
        if traced.is_tracing():
            return traced.traced(spec.word, list(given), q, k, v, options)[0]
        said = quick.said_by(options) if options else ()
        known = None if said is None else filling.signature(spec, q, k, v, given, said)
        if known is None or _autocast("cpu"):
            return self.run(spec, q, k, v, options, given).output
        output = filling.answer(spec, known, q, k, v, given)
        if output is not None:
            return output
        prepared, plan, bound = _ready(spec, q, k, v, options, given)
        computed = find(plan.strategy).run(bound)
        filling.remember(spec, known, bound, plan, (q, k, v))
        return result_of(prepared.frame, bound, computed, plan).output

    def plan(self, spec: Spec, q: Any, k: Any, v: Any, options: Mapping[str, Any]) -> Plan:
        """The plan of one call; nothing is computed."""
        if cached.concerns(k, v, options):
            return cached.plan(spec, q, k, v, options)
        options = cached.without(options)
        if any_named(q, k, v):
            _, given, options = arranged(spec, q, k, v, options)
            q, k, v = given["q"], given["k"], given["v"]
        prepared, want, share = _prepared(spec, q, k, v, options)
        return _plan(prepared, spec, q, k, v, options, want, share)

    def forced(self, name: str) -> AbstractContextManager[None]:
        """A block in which every call runs by the strategy, as ``qkv.strategy``."""
        return strategy(name)


def _traced_result(spec: Spec, q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any]) -> Result:
    """A result inside a graph, whose plan is made when the graph runs."""
    want = options.get("want", ())
    names = (want,) if isinstance(want, str) else tuple(want)
    found = traced.traced(spec.word, spec.learned, q, k, v, options)
    by_name = dict(zip(names, found[1:], strict=True))
    lse = by_name.pop("lse", None)
    return Result(found[0], lse, by_name, traced.PLAN)


def _prepared(
    spec: Spec, q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any], given: tuple[Tensor, ...] = ()
) -> tuple[Prepared, frozenset[str], float]:
    """What is remembered for the call's signature, made when it is new; with the statistics wanted and the dropout."""
    check_options(options)
    want, share = wanted(spec, options.get("want", ())), options.get("dropout", 0.0)
    check_dropout(share)
    sizes = options.get("sizes")
    try:
        signature = (
            *(part for x in (q, k, v) for part in (x.shape, x.dtype, x.device, x.stride())),
            torch.is_grad_enabled(),
            torch.backends.cuda.flash_sdp_enabled(),  # the caller's choice among torch's kernels, on CPUs as well
            q.requires_grad or k.requires_grad or v.requires_grad,
            any(x.requires_grad for x in given),
            want,
            share > 0,
            options.get("align"),
            position_kinds(options.get("positions")),
            None if not sizes else tuple(sorted(sizes.items())),
        )
    except AttributeError:
        check_tensors(q, k, v)
        raise
    memory: dict[Any, Prepared] = spec.__dict__.setdefault("_prepared", {})
    found = memory.get(signature)
    if found is None:
        found = Prepared(frame(spec, q, k, v, sizes), None, {}, any(x.requires_grad for x in given))
        if len(memory) >= REMEMBERED:
            memory.pop(next(iter(memory)), None)
        memory[signature] = found
    return found, want, share


def _plan(
    prepared: Prepared,
    spec: Spec,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    options: Mapping[str, Any],
    want: frozenset[str],
    share: float,
) -> Plan:
    """The plan for the call: remembered, or chosen now. Looks at k and v only when a strategy needs them finite."""
    name = forced()
    transformed = any(finite.is_transformed(x) for x in (q, k, v))
    if transformed or prepared.request is None or prepared.request.transformed:
        request = request_of(prepared.frame, q, k, v, options, want, share, transformed)
        learns = prepared.learns_given and torch.is_grad_enabled()
        prepared.request = replace(request, captured_grad=True) if learns else request
        prepared.plans.clear()
    plan = prepared.plans.get((name, None))
    if plan is None:
        plan = prepared.plans[name, None] = choose(prepared.request, name)
    if not plan.needs_finite:
        return plan
    seen = finite.is_finite(k, v)
    known = prepared.plans.get((name, seen))
    if known is None:
        known = prepared.plans[name, seen] = choose(replace(prepared.request, finite=seen), name)
    return known


def _ready(
    spec: Spec, q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any], given: tuple[Tensor, ...] = ()
) -> tuple[Prepared, Plan, Bound]:
    if len(given) != len(spec.openings):
        raise InternalError(f"{len(given)} tensors fill {len(spec.openings)} openings of {spec!r}; please report this")
    prepared, want, share = _prepared(spec, q, k, v, options, given)
    plan = _plan(prepared, spec, q, k, v, options, want, share)
    seed = options.get("seed")
    chosen = seed if seed is not None else dropping.draw_seed() if share else 0
    bound = bind(
        prepared.frame,
        q,
        k,
        v,
        positions=options.get("positions"),
        align=options.get("align"),
        want=want,
        dropout=share,
        seed=chosen,
        exact=find(plan.strategy).capability.exact,
        given=dict(zip(spec.openings, given, strict=True)),
    )
    return prepared, plan, bound


door = Door()
hang(door)
traced.serve(door)
