"""Strategy ``reference``: attention by its definition, in float64, with every score in memory.

The clearest code of the project and the one that the others are held against. Every operation is an ordinary
differentiable one of torch's, so that gradients of any order, jvp and vmap work. It is never fast, and never taken
unless asked for or needed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..plan import Capability, Cost, Request
from ..plan.cost import dense_flops, price, tensor_bytes
from ..terms.weights import Differential, Linear, Sigmoid
from . import dropout, finite
from .result import Computed
from .scores import by_row, changed, kept, rows_read

if TYPE_CHECKING:
    from torch import Tensor

    from .bind import Bound


class Reference:
    """The definition."""

    name = "reference"
    capability = Capability(
        want=frozenset({"lse", "max_logit", "entropy", "argmax", "weights"}),
        second_backward=True,
        transforms=True,
        exact=True,
        reads=frozenset({"ring", "paged", "quantized"}),
        invariant=True,
    )

    def cost(self, request: Request) -> Cost:
        """Both products over all pairs in float64, and a dozen passes over the scores."""
        return price(dense_flops(request), tensor_bytes(request), 8.0 * 6 * request.pairs, efficiency=0.25, calls=30)

    def run(self, bound: Bound) -> Computed:
        """The output and whatever statistics were wanted."""
        import torch

        lowered = bound.lowered
        rows = len(lowered.shared) + len(lowered.query_order)
        # packed: the order of sums in a matrix product follows from strides and alignment
        packed = torch.contiguous_format
        q, k, v = (
            x.to(torch.float64).clone(memory_format=packed) for x in (bound.q, bound.operand(0), bound.operand(1))
        )
        q = _flat(q, q.dim() - 1 - len(lowered.query_order))
        k = _flat(k, k.dim() - 1 - len(lowered.key))
        v = _flat(v, v.dim() - 1 - len(lowered.key))
        raw = finite.scores(q, k) * bound.frame.scale
        sizes = [bound.frame.sizes[n] for n in bound.places.names]
        raw = raw.reshape(*raw.shape[: raw.dim() - 2 - len(lowered.shared)], *sizes)
        keep = kept(bound, {})
        everywhere = torch.ones((), dtype=torch.bool, device=raw.device)
        scores = changed(bound, raw, keep, {}, flows=everywhere if keep is None else keep)
        lead = scores.dim() - len(sizes)
        scores = scores.flatten(lead + rows)
        mask = everywhere if keep is None else keep.broadcast_to(sizes).flatten(rows)
        if keep is not None:
            empty = 0.0 if isinstance(bound.spec.weights, Linear) else -math.inf
            scores = torch.where(mask, scores, empty)
        weights, lse = self.weights(bound, scores, mask)
        dropped = weights
        if bound.dropout:
            dropped = weights * dropout.survivors(bound, {}, bound.dropout).flatten(rows).to(weights.dtype)
        output = self.sum(bound, dropped, v, None if keep is None else mask, rows)
        if isinstance(bound.spec.weights, Differential) and bound.spec.weights.lambda_init is not None:
            mean = output.square().mean(-1, keepdim=True) + bound.spec.weights.eps
            output = output * torch.rsqrt(mean) * (1.0 - bound.spec.weights.lambda_init)
        return Computed(output, lse, self.statistics(bound, scores, weights, lse, sizes))

    def weights(self, bound: Bound, scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """The weights over the last axis, and the lse where there is one."""
        import torch

        kind = bound.spec.weights
        if isinstance(kind, Sigmoid):
            # through its logarithm, whose slope keeps its digits where the weight is near 1
            logs = torch.nn.functional.logsigmoid(scores + kind.bias)
            return torch.where(mask, torch.exp(logs), 0.0), None
        if isinstance(kind, Linear):
            if not kind.normalize:
                return scores, None
            total = scores.sum(-1, keepdim=True)
            return torch.where(total == 0, 0.0, scores / torch.where(total == 0, 1.0, total)), None
        sink = bound.lowered.sink
        at_sink = None if sink is None else by_row(bound, sink, torch.float64).expand(scores.shape[:-1]).unsqueeze(-1)
        shares, lse = softmax(scores, at_sink)
        if not isinstance(kind, Differential) or bound.lowered.lam is None:
            return shares, lse
        lam = by_row(bound, bound.lowered.lam, torch.float64).unsqueeze(-1)
        difference = shares[0] - lam * shares[1]
        if kind.renormalize == "clamp":
            difference = torch.relu(difference)
            total = difference.sum(-1, keepdim=True)
            difference = torch.where(total == 0, 0.0, difference / torch.where(total == 0, 1.0, total))
        return difference, lse

    def sum(self, bound: Bound, weights: Tensor, v: Tensor, mask: Tensor | None, rows: int) -> Tensor:
        """Values weighted and summed over the keys, with the rows of a value table where there is one."""
        import torch

        shared = len(bound.lowered.shared)
        flat = weights.flatten(shared, -2) if rows > shared else weights.unsqueeze(-2)
        keep = None if mask is None else mask.reshape(flat.shape)
        output = finite.weighted(flat, v, keep).reshape(*weights.shape[:rows], v.shape[-1])
        if bound.lowered.row_table is not None:
            table, node = bound.lowered.row_table
            sizes = [bound.frame.sizes[n] for n in bound.places.names]
            read = rows_read(bound, node, None, {}, torch.float64).broadcast_to(sizes).flatten(rows)
            shares = torch.zeros(*weights.shape[:-1], table.tensor.shape[0], dtype=weights.dtype, device=weights.device)
            output = output + shares.scatter_add(-1, read, weights) @ table.tensor.to(weights.dtype)
        return output

    def statistics(
        self, bound: Bound, scores: Tensor, weights: Tensor, lse: Tensor | None, sizes: list[int]
    ) -> dict[str, Tensor]:
        """The wanted statistics of each row; of each map for differential weights."""
        import torch

        want, stats = bound.want, dict[str, "Tensor"]()
        if "weights" in want:
            stats["weights"] = weights.reshape(sizes)
        if not want & {"max_logit", "entropy", "argmax"}:
            return stats
        largest = scores.amax(-1) if scores.shape[-1] else scores.new_full(scores.shape[:-1], -math.inf)
        if "max_logit" in want:
            stats["max_logit"] = largest
        if "argmax" in want:
            stats["argmax"] = torch.where(largest == -math.inf, -1, scores.argmax(-1) if scores.shape[-1] else -1)
        if "entropy" in want and lse is not None:
            logs = torch.where(scores == -math.inf, 0.0, scores - torch.where(lse == -math.inf, 0.0, lse).unsqueeze(-1))
            shares = torch.where(scores == -math.inf, 0.0, torch.exp(logs))
            stats["entropy"] = -(shares * logs).sum(-1)
        return stats


def softmax(scores: Tensor, sink: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weights and lse over the last axis; a row of -inf alone gives weights of exactly 0, an lse of -inf and no
    gradient, with a sink or without.

    ``sink`` is one more score for each row (last axis 1) that takes weight and carries no value.
    """
    import torch

    if scores.shape[-1] == 0:
        return scores, scores.sum(-1) - math.inf
    every = scores if sink is None else torch.cat([scores, sink], dim=-1)
    dead = scores.detach().amax(-1, keepdim=True) == -math.inf
    largest = every.detach().amax(-1, keepdim=True)
    largest = torch.where(largest == -math.inf, 0.0, largest)
    powers = torch.exp(every - largest)
    total = powers.sum(-1, keepdim=True)
    safe = torch.where(total == 0, 1.0, total)
    lse = torch.where(dead, -math.inf, torch.log(safe) + largest).squeeze(-1)
    return (powers / safe)[..., : scores.shape[-1]], lse


def _flat(x: Tensor, start: int) -> Tensor:
    """The axes from ``start`` to the one before the last as one, even if there are none."""
    return x.flatten(start, -2) if start < x.dim() - 1 else x.unsqueeze(-2)
