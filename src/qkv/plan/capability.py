"""What a strategy can do, as data: one frozen table that stands beside each strategy's code.

Refusals are read off the table here, once for all strategies, so that no strategy words its own. What a table cannot
say goes into the strategy's ``also`` function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from .cost import Cost
from .request import Request

ALL_DTYPES = frozenset({"float64", "float32", "bfloat16", "float16"})
ALL_WEIGHTS = frozenset({"Softmax", "Sigmoid", "Differential", "Linear"})


@dataclass(frozen=True, slots=True)
class Capability:
    """What a strategy runs. ``None`` for a set means that everything is run.

    ``leaks_dropped`` says that a dropped key that holds NaN would reach the output, so that masks need finite k and v;
    ``exact`` that it computes in float64 whatever the tensors' type. ``reads`` names the kinds of storage beside
    ordinary tensors that it reads where they lie; ``invariant`` that its bits do not depend on where pages lie.
    """

    dtypes: frozenset[str] = ALL_DTYPES
    devices: frozenset[str] | None = None
    weights: frozenset[str] = ALL_WEIGHTS
    score: bool = True
    sink: bool = True
    position: bool = True
    want: frozenset[str] = frozenset()
    dropout: bool = True
    backward: bool = True
    captured_gradients: bool = True
    second_backward: bool = False
    transforms: bool = False
    deterministic: bool = True
    leaks_dropped: bool = False
    exact: bool = False
    reads: frozenset[str] = frozenset()
    invariant: bool = False
    also: tuple[Callable[[Request], str | None], ...] = field(default=())


class Strategy(Protocol):
    """A way to run a spec: a name, a table, a price and the code."""

    @property
    def name(self) -> str: ...

    @property
    def capability(self) -> Capability: ...

    def cost(self, request: Request) -> Cost: ...

    def run(self, bound: Any) -> Any: ...


def refusals(request: Request, capability: Capability) -> Iterator[str]:
    """Each reason why the table does not cover the request; none when it does."""
    if request.dtype not in capability.dtypes:
        yield f"q is {request.dtype}; it runs {', '.join(sorted(capability.dtypes))}"
    if capability.devices is not None and request.device not in capability.devices:
        yield f"q is on {request.device}; it runs on {', '.join(sorted(capability.devices))}"
    weights = type(request.spec.weights).__name__
    if weights not in capability.weights:
        yield f"{weights.lower()} weights are not supported"
    if request.spec.score and not capability.score:
        yield f"score term {request.spec.score[0]!r} is not supported"
    if request.lowered.sink is not None and not capability.sink:
        yield "a sink is not supported"
    missing = sorted(request.want - capability.want)
    if missing:
        yield f"it cannot return {', '.join(missing)}"
    if request.dropout and not capability.dropout:
        yield "dropout is not supported"
    if request.requires_grad and not capability.backward:
        yield "it has no backward"
    if request.captured_grad and not capability.captured_gradients:
        yield "a captured tensor needs a gradient"
    if capability.leaks_dropped and request.lowered.keep is not None and request.finite is False:
        yield "k or v holds NaN or infinity, which it would let through from dropped keys"
    if request.transformed and not capability.transforms:
        yield "a torch.func transform (vmap, jvp, grad) is active"
    kinds = sorted(request.storage - capability.reads)
    if kinds:
        yield f"it reads tensors, and the cache is {' and '.join(kinds)}"
    if request.invariant and not capability.invariant:
        yield "its bits may depend on where a cache keeps its pages"
    for check in capability.also:
        reason = check(request)
        if reason is not None:
            yield reason
