"""What a call returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..plan import Plan

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(slots=True)
class Computed:
    """What a strategy returns, in canonical layout: output ``[shared..., query-only..., value feature]``; lse and
    statistics without the last axis.
    """

    output: Tensor
    lse: Tensor | None = None
    stats: dict[str, Tensor] = field(default_factory=dict[str, "Tensor"])


@dataclass(frozen=True, slots=True)
class Result:
    """Output, row statistics and plan of one call.

    ``output`` has the layout of the pattern's right side and q's dtype. ``lse`` (natural logarithm of the row's sum of
    exponentials, sinks included; -inf for a row that keeps nothing) and each of ``stats`` (``max_logit``, ``entropy``
    in nats, ``argmax``, an index into the flattened key coordinates, -1 for a row that keeps nothing) have the output's
    coordinates less the value features, and for differential weights an axis of size 2 in front, one entry for each
    map. ``stats["weights"]`` has the coordinates of the scores: shared, query-only, key. ``lse`` is None unless it was
    wanted. ``plan`` says what ran. Given ``Named`` tensors, all of
    them are ``Named``.
    """

    output: Any
    lse: Any
    stats: dict[str, Any]
    plan: Plan

    def __repr__(self) -> str:
        parts = [f"output={_shown(self.output)}"]
        parts += [f"lse={_shown(self.lse)}"] if self.lse is not None else []
        parts += [f"{name}={_shown(value)}" for name, value in self.stats.items()]
        return f"Result({', '.join(parts)}, by {self.plan.strategy})"


def _shown(value: Any) -> str:
    """A tensor by its shape and type, a Named one as it shows itself."""
    if not hasattr(value, "dim"):
        return repr(value)
    return f"{'x'.join(str(n) for n in value.shape) or 'scalar'} {str(value.dtype).removeprefix('torch.')}"
