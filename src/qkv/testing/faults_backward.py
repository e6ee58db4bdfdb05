"""A simulated backward pass in tiles, and faults to plant in it.

Knows how fused backward passes are built: weights recomputed from lse, the row sum of output times its gradient, 16-bit
weights and score gradients, float32 sums. Refuses autograd inside, so that it can judge the oracle's gradients too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from qkv.errors import SpecError
from qkv.testing.faults import SimulatedKernel

#: every fault by name, and what the backward pass does wrong
BACKWARD_FAULTS: dict[str, str] = {
    "row sum missing": "the score's gradient lacks the row sum of output times its gradient",
    "group not summed": "the key head's gradient is that of the last query head of its group",
    "scale missing for keys": "the keys' gradient lacks the scale",
    "last query tile dropped": "the last tile of queries adds nothing to the gradients of keys and values",
    "query gradient overwritten": "the last tile of keys replaces the query's gradient and does not add to it",
    "mask missing": "weights are recomputed without the mask",
    "dead rows divide": "a row that keeps nothing is not left out: exp(-inf - (-inf))",
    "sums in bfloat16": "gradients are summed in bfloat16",
}


@dataclass(frozen=True, slots=True)
class SimulatedBackward:
    """The gradients of attention in tiles, with at most one planted fault; without one they are right.

    Coordinates: q [b, h, i, d], k [b, hk, j, d], v [b, hk, j, e], ``output`` and ``grad_output`` [b, h, i, e], ``lse``
    [b, h, i], ``keep`` [b, h, i, j]. Raises: SpecError for an unknown fault.
    """

    fault: str = ""
    query_tile: int = 32
    key_tile: int = 16

    def __post_init__(self) -> None:
        if self.fault and self.fault not in BACKWARD_FAULTS:
            raise SpecError(f'there is no fault "{self.fault}".\n    faults: {", ".join(BACKWARD_FAULTS)}')

    def run(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        output: Tensor,
        lse: Tensor,
        grad_output: Tensor,
        keep: Tensor,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of q, k and v, in the dtype of ``q``."""
        groups = q.shape[1] // k.shape[1]
        if self.fault != "mask missing":
            used, alive = keep.any(2)[..., None], keep.any(3)[..., None]
        else:
            used, alive = torch.ones(1, 1, 1, 1, dtype=torch.bool), torch.ones(1, 1, 1, 1, dtype=torch.bool)
        query = torch.where(alive, q, 0).float()
        key = torch.where(used, k.repeat_interleave(groups, 1), 0).float()
        value = torch.where(used, v.repeat_interleave(groups, 1), 0).float()
        do = torch.where(alive, grad_output, 0).float()
        row_sum = (do * torch.where(alive, output, 0).float()).sum(-1, keepdim=True)
        row_sum = row_sum * float(self.fault != "row sum missing")
        safe = lse if self.fault == "dead rows divide" else torch.where(lse == -torch.inf, 0.0, lse)
        dq, dk, dv = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for rows in _tiles(query.shape[2], self.query_tile):
            if self.fault == "last query tile dropped" and rows.stop == query.shape[2] and rows.start > 0:
                continue
            for tile in _tiles(key.shape[2], self.key_tile):
                logits = (query[:, :, rows] @ key[:, :, tile].mT) * scale
                kept = keep[:, :, rows, tile]
                if self.fault != "mask missing":
                    logits = torch.where(kept, logits, -torch.inf)
                weights = torch.exp(logits - safe[:, :, rows, None])
                dweights = do[:, :, rows] @ value[:, :, tile].mT
                dlogits = (weights * (dweights - row_sum[:, :, rows])).to(q.dtype).float()
                dv[:, :, tile] += weights.to(q.dtype).float().mT @ do[:, :, rows]
                dk[:, :, tile] += dlogits.mT @ query[:, :, rows]
                dq[:, :, rows] *= float(self.fault != "query gradient overwritten")
                dq[:, :, rows] += dlogits @ key[:, :, tile]
                if self.fault == "sums in bfloat16":
                    dq, dk, dv = dq.bfloat16().float(), dk.bfloat16().float(), dv.bfloat16().float()
        dk = dk * (1.0 if self.fault == "scale missing for keys" else scale)
        dk, dv = self._per_key_head(dk, groups), self._per_key_head(dv, groups)
        return (dq * scale).to(q.dtype), dk.to(q.dtype), dv.to(q.dtype)

    def _per_key_head(self, x: Tensor, groups: int) -> Tensor:
        x = x.reshape(x.shape[0], x.shape[1] // groups, groups, *x.shape[2:])
        return x[:, :, -1] if self.fault == "group not summed" else x.sum(2)


def differentiable(forward: SimulatedKernel, backward: SimulatedBackward) -> Callable[..., Tensor]:
    """An attention function of q, k, v, causal, mask and scale whose passes are the two simulated ones.

    >>> q = torch.randn(1, 2, 5, 8, requires_grad=True)
    >>> differentiable(SimulatedKernel(), SimulatedBackward())(q, q, q).sum().backward()
    >>> q.grad.shape
    torch.Size([1, 2, 5, 8])
    """

    def attention(
        q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, mask: Tensor | None = None, scale: float | None = None
    ) -> Tensor:
        return cast(Tensor, _Attention.apply(q, k, v, forward, backward, causal, mask, scale))  # pyright: ignore[reportUnknownMemberType]  # torch gives no type

    attention.__name__ = "simulated attention"
    return attention


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        forward: SimulatedKernel,
        backward: SimulatedBackward,
        causal: bool,
        mask: Tensor | None,
        scale: float | None,
    ) -> Tensor:
        output, lse = forward.run(q, k, v, causal=causal, mask=mask, scale=scale)
        ctx.save_for_backward(q, k, v, output, lse, forward.keep(q, k, causal=causal, mask=mask, window=None))
        ctx.backward_pass = backward
        ctx.scale = q.shape[-1] ** -0.5 if scale is None else scale
        return output

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, output, lse, keep = ctx.saved_tensors
        return (
            *ctx.backward_pass.run(q, k, v, output, lse, grad_outputs[0], keep, ctx.scale),
            None,
            None,
            None,
            None,
            None,
        )


def _tiles(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
