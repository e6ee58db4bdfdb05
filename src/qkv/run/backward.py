"""How the backward of a blockwise pass is entered: what must hold before scores are made again.

A recomputing backward reads masks and tables a second time, in float32, and has no derivative of its own. This module
knows those three conditions; it refuses to know what is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, cast

import torch

from ..errors import Refused, SpecError
from ..terms.expr import Captured

if TYPE_CHECKING:
    from torch import Tensor

    from .bind import Bound

Seen = tuple[tuple[Captured, "Tensor", int], ...]
"""What a call read beside q, k and v, and how often it had been written to."""

SECOND = "its backward makes scores again and has no derivative of its own"


class _Once(torch.autograd.Function):
    """The identity on gradients, whose derivative is refused in the name of ``strategy``."""

    @staticmethod
    def forward(ctx: Any, strategy: str, *gradients: Tensor) -> Any:
        ctx.strategy = strategy
        return tuple(x.view_as(x) for x in gradients)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - torch names no arguments
        raise no_second_derivative(ctx.strategy)


def no_second_derivative(strategy: str) -> Refused:
    """The refusal of whoever asks for one."""
    return Refused(
        f'strategy "{strategy}" has no second derivative.\n    {SECOND}\n'
        '  Use strategy "reference": with qkv.strategy("reference").',
        strategy=strategy,
        reasons=(SECOND,),
    )


_once = cast("Callable[..., tuple[Tensor, ...]]", _Once.apply)  # pyright: ignore[reportUnknownMemberType]


def recomputing(strategy: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Wraps a backward of ``strategy``: run without autocast and graph; a derivative of what it returns raises
    ``Refused``.
    """

    def wrapped(backward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(backward)
        def entered(ctx: Any, *grads: Tensor | None) -> Any:
            return _entered(strategy, backward, ctx, *grads)

        return entered

    return wrapped


def _entered(strategy: str, backward: Callable[..., Any], ctx: Any, *grads: Tensor | None) -> Any:
    given = [x.device.type for x in grads if x is not None]
    if not given:
        return (None,) * len(ctx.needs_input_grad)
    with torch.no_grad(), torch.autocast(given[0], enabled=False):
        found: tuple[Tensor | None, ...] = backward(ctx, *grads)
    if not torch.is_grad_enabled():
        return found
    # Leaves of their own, so that the refusal is met when somebody derives what comes out; and the operands beside
    # them, so that it is met, too, by whoever derives with respect to those.
    leaves = [x.detach().requires_grad_() for x in found if x is not None]
    operands = [x for x in (*grads, *ctx.saved_tensors) if x is not None and x.requires_grad]
    made = iter(_once(strategy, *leaves, *operands))
    return tuple(None if x is None else next(made) for x in found)


def versions(bound: Bound) -> Seen:
    """How often each tensor that the call reads beside q, k and v was written to so far."""
    read = ((c, bound.given.get(c, c.tensor)) for c in bound.lowered.captured)
    return tuple((c, x, x._version) for c, x in read if not x.is_inference())


def check_unchanged(seen: Seen) -> None:
    """Raises ``SpecError`` when a captured tensor was written to since ``seen``: the scores cannot be made again."""
    for table, tensor, version in seen:
        if tensor._version != version:
            raise SpecError(
                f"{table!r} was changed in place between the forward and the backward, which reads it again.\n"
                "  Give each call a tensor of its own: mask.clone()."
            )
