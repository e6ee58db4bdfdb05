"""Calls inside ``torch.compile`` and ``torch.export``: one operator that graphs hold, opaque to their compilers.

A graph knows a call by a word; which spec and options it stands for is written down here, in this process. Planning
happens when the graph runs, as it does without one. The operator's backward makes the forward again with gradients on.
This module knows operators and what compilers ask of them; it refuses to know strategies.
"""

# torch leaves the types of what registers operators open, and says nothing of its dispatcher
# pyright: reportUnknownMemberType=false, reportPrivateUsage=false

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..coords.sizes import solve_open
from ..errors import InternalError, SpecError
from ..plan import Plan
from ..spec import Spec
from ..spec.lowered import Lowered
from ..terms.weights import Differential
from ..terms.worded import found
from .result import Result

if TYPE_CHECKING:
    from .call import Door

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """What a word in a graph stands for. ``places`` are the coordinates whose positions are tensors, with patterns."""

    spec: Spec
    want: tuple[str, ...]
    options: Mapping[str, Any]
    places: tuple[tuple[str, str | None], ...]

    def lowered(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Lowered, Mapping[str, int]]:
        """The spec's graphs and the sizes, for tensors of these shapes."""
        shapes = {"q": tuple(q.shape), "k": tuple(k.shape), "v": tuple(v.shape)}
        solved = solve_open(self.spec.parsed, shapes, self.options.get("sizes"))
        rests = [name for tensor in self.spec.parsed.tensors.values() for name in tensor.rests]
        counts = {r: sum(1 for c in solved.pattern.coordinates if c.startswith(f"{r}.")) for r in rests}
        return self.spec.lowered(counts), solved.sizes


PLAN = Plan("", "made when the graph runs", {}, 0, 0, 0)
"""What is known of a plan while a graph is made."""

_calls: dict[str, Call] = {}
_doors: list[Door] = []


def serve(door: Door) -> None:
    """Makes ``door`` the one through which graphs run calls."""
    _doors[:] = [door]


is_tracing = torch.compiler.is_compiling
"""Whether a compiler or an exporter is looking on."""


@torch.compiler.assume_constant_result
def word_of(
    number: str,
    want: tuple[str, ...],
    align: str | None,
    dropout: float,
    seed: int | None,
    sizes: tuple[tuple[str, int], ...],
    offsets: tuple[tuple[str, int], ...],
    places: tuple[tuple[str, str | None], ...],
) -> str:
    """The word for a call of the spec with this number."""
    word = repr((number, want, align, dropout, seed, sizes, offsets, places))
    if word not in _calls:
        options: dict[str, Any] = {"align": align, "dropout": dropout, "positions": dict(offsets)}
        options |= {"sizes": dict(sizes)} if sizes else {}
        options |= {"seed": seed} if seed is not None else {}
        _calls[word] = Call(found(number), want, options, places)
    return word


def call_of(word: str) -> Call:
    """The call that a word stands for. Raises ``SpecError`` for a graph that was made in another process."""
    if word not in _calls:
        raise SpecError(
            f"this graph holds a call of qkv that this process does not know: {word:.80}.\n"
            "  Make the spec and compile or export here: masks and scores are no part of a saved graph."
        )
    return _calls[word]


def traced(
    spec: str, learned: list[Tensor], q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any]
) -> list[Tensor]:
    """For the spec with this word, and its captured tensors that need gradients: the output and what is wanted, in the
    order of ``want``, by the operator.
    """
    dropout, seed = options.get("dropout", 0.0), options.get("seed")
    given: dict[str, Any] = options.get("positions") or {}
    offsets = tuple((name, value) for name, value in given.items() if isinstance(value, int))
    tensors: list[Tensor] = []
    places: list[tuple[str, str | None]] = []
    for name, value in given.items():
        if isinstance(value, int):
            continue
        pair: Any = value if isinstance(value, tuple) else (value, None)  # pyright: ignore[reportUnknownVariableType]
        tensors.append(pair[0])
        places.append((name, pair[1]))
    want = options.get("want", ())
    want = (want,) if isinstance(want, str) else tuple(want)
    known: dict[str, int] = options.get("sizes") or {}
    sizes = tuple(known.items())
    word = word_of(spec, want, options.get("align"), dropout, seed, sizes, offsets, tuple(places))
    drawn = torch.randint(0, 1 << 62, ()) if dropout and seed is None else None
    return torch.ops.qkv.attention(q, k, v, learned, tensors, drawn, word)


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    learned: Sequence[Tensor],
    places: Sequence[Tensor],
    seed: Tensor | None,
    word: str,
) -> list[Tensor | None]:
    call = call_of(word)
    if not _doors:
        raise InternalError("nothing runs calls of graphs: import qkv, not a part of it")
    options = dict(call.options)
    if places:
        named = {
            name: x if pattern is None else (x, pattern) for (name, pattern), x in zip(call.places, places, strict=True)
        }
        options["positions"] = {**(options.get("positions") or {}), **named}
    if seed is not None:
        options["seed"] = int(seed)
    given = tuple(learned) if call.spec.openings else ()
    result: Result = _doors[0].run(call.spec, q, k, v, {**options, "want": call.want}, given)
    return [result.output, *(result.lse if name == "lse" else result.stats[name] for name in call.want)]


@torch.library.custom_op("qkv::attention", mutates_args=())
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    learned: Sequence[Tensor],
    places: Sequence[Tensor],
    seed: Tensor | None,
    call: str,
) -> list[Tensor]:
    """One call. ``learned`` are the captured tensors that need gradients, which the spec holds as well; where it has
    openings, what fills them.
    """
    with torch.no_grad():
        results = _run(q, k, v, learned, places, seed, call)
    return [x.contiguous() for x in results if x is not None]


@attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, learned: Any, places: Any, seed: Any, call: str) -> list[Tensor]:
    made = call_of(call)
    lowered, sizes = made.lowered(q, k, v)
    features = frozenset(lowered.value_features)
    axes = [axis.names for axis in lowered.pattern.output.axes]
    rows = [[n for n in names if n not in features] for names in axes]
    shape = [math.prod(sizes[n] for n in names) for names in axes]
    by_row = [math.prod(sizes[n] for n in names) for names, all_ in zip(rows, axes, strict=True) if names or not all_]
    by_row = [2, *by_row] if isinstance(made.spec.weights, Differential) else by_row
    working = torch.float64 if q.dtype == torch.float64 else torch.float32
    results = [q.new_empty(shape)]
    for name in made.want:
        if name == "weights":
            results.append(
                q.new_empty(
                    [sizes[n] for n in (*lowered.shared, *lowered.query_order, *lowered.key)], dtype=torch.float64
                )
            )
        else:
            results.append(q.new_empty(by_row, dtype=torch.int64 if name == "argmax" else working))
    return results


@torch.library.custom_op("qkv::attention_backward", mutates_args=())
def attention_backward(
    grad: Tensor,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    learned: Sequence[Tensor],
    places: Sequence[Tensor],
    seed: Tensor | None,
    call: str,
) -> list[Tensor]:
    """The gradients of q, k, v and what is learned."""
    # an operator runs below autograd, and these gradients are autograd's
    everything = torch._C._ForceDispatchKeyGuard(  # pyright: ignore
        torch._C._dispatch_tls_local_include_set(),
        torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView),  # pyright: ignore
    )
    # the guard lets autocast's keys in as well, which would round float32 products to 16 bits
    with everything, torch.autocast(q.device.type, enabled=False), torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        made = call_of(call)
        given = [x.detach() for x in learned] if made.spec.openings else []
        floats = [x.requires_grad_() for x in given if x.dtype.is_floating_point]
        results = _run(leaves[0], leaves[1], leaves[2], given, places, seed, call)
        outputs, grads = [results[0]], [grad]
        if grad_lse is not None:
            outputs.append(results[1 + made.want.index("lse")])
            grads.append(grad_lse)
        inputs = [*leaves, *made.spec.learned, *floats]
        slopes: Any = torch.autograd.grad(outputs, inputs, grads, allow_unused=True, materialize_grads=True)  # pyright: ignore
    each: list[Tensor] = list(slopes)  # pyright: ignore[reportUnknownArgumentType]
    for at, x in enumerate(given):
        if not x.dtype.is_floating_point:
            each.insert(3 + at, torch.zeros_like(x))
    return [x.contiguous() for x in each]


@attention_backward.register_fake
def _(
    grad: Tensor,
    grad_lse: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    learned: Sequence[Tensor],
    places: Any,
    seed: Any,
    call: str,
) -> list[Tensor]:
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v, *learned)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    q, k, v, learned, places, seed, ctx.call = inputs
    ctx.counts = (len(learned), len(places))
    ctx.save_for_backward(q, k, v, *learned, *places, seed)


def _derive(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    q, k, v, *rest = ctx.saved_tensors
    learned, places = rest[: ctx.counts[0]], rest[ctx.counts[0] : -1]
    want = call_of(ctx.call).want
    grad_lse = grads[1 + want.index("lse")] if "lse" in want else None
    if grads[0] is None and grad_lse is None:
        return (None, None, None, [None] * len(learned), [None] * len(places), None, None)
    grad = grads[0]
    if grad is None:
        raise InternalError("a graph asks for the gradient of the lse alone; please report this")
    dq, dk, dv, *d_learned = torch.ops.qkv.attention_backward(
        grad, grad_lse, q, k, v, learned, places, rest[-1], ctx.call
    )
    slopes = [d if x.dtype.is_floating_point else None for d, x in zip(d_learned, learned, strict=True)]
    return (dq, dk, dv, slopes, [None] * len(places), None, None)


attention.register_autograd(_derive, setup_context=_keep)
