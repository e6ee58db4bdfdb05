"""What the planner is asked about a call, and what the caller gets of what a strategy computed.

It knows frames and results; it refuses to know strategies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..plan import Plan, Request
from . import finite
from .bind import Bound, Frame
from .result import Computed, Result

if TYPE_CHECKING:
    from torch import Tensor


def request_of(
    made: Frame,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    options: Mapping[str, Any],
    want: frozenset[str],
    share: float,
    transformed: bool,
) -> Request:
    """The request of a call whose frame is ``made``."""
    lowered = made.lowered
    return Request(
        spec=made.spec,
        lowered=lowered,
        sizes=tuple(sorted(made.sizes.items())),
        dtype=str(made.dtype).removeprefix("torch."),
        device=made.device.type,
        want=want,
        requires_grad=torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad),
        captured_grad=torch.is_grad_enabled() and any(c.tensor.requires_grad for c in lowered.captured),
        transformed=transformed,
        relation=_relation(made, options),
        dropout=share,
        derivatives=finite.derivatives() if transformed else 0,
        forward_mode=transformed and finite.is_forward_mode(),
    )


def _relation(made: Frame, options: Mapping[str, Any]) -> str | None:
    """How queries stand to keys, as far as the signature says."""
    if not made.lowered.relations:
        return None
    if options.get("positions"):
        return "given"
    return "equal" if all(made.sizes[q] == made.sizes[k] for q, k in made.lowered.relations) else "offset"


def result_of(made: Frame, bound: Bound, computed: Computed, plan: Plan) -> Result:
    """The result in the caller's layout."""
    output = made.output.apply(computed.output.to(made.dtype))
    stats = {n: _stat(bound, x) for n, x in computed.stats.items()}
    stats = {n: x if n == "weights" else made.row.apply(x) for n, x in stats.items()}
    lse = (
        None
        if computed.lse is None or "lse" not in bound.want
        else made.row.apply(computed.lse.to(bound.working_dtype))
    )
    return Result(output, lse, stats, plan)


def _stat(bound: Bound, x: Tensor) -> Tensor:
    return x.to(bound.working_dtype) if x.dtype.is_floating_point else x
