"""Strategy ``cpu``: the compiled core, forward and backward, for every mask and score on a CPU.

Tensors are read where they lie and the output is written where the pattern wants it; no score outlives its block.
Differential weights are two passes in one, combined afterwards in torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..core import is_built
from ..errors import InternalError
from ..plan import Capability, Cost, Request
from ..plan.cost import dense_flops, price, tensor_bytes
from ..terms.weights import Differential
from .fused import Pass, captured_by_score, fused
from .result import Computed
from .scores import by_row
from .signature import MOST_AXES

if TYPE_CHECKING:
    from .bind import Bound


def _core(request: Request) -> str | None:
    return None if is_built() else "the compiled core is not built"


def _clamp(request: Request) -> str | None:
    weights = request.spec.weights
    if isinstance(weights, Differential) and weights.renormalize == "clamp":
        return 'renormalize="clamp" needs both maps of a row at once; strategy "chunked" has them'
    return None


def _axes(request: Request) -> str | None:
    lowered = request.lowered
    lead = 1 if isinstance(request.spec.weights, Differential) else 0
    most = max(lead + len(lowered.shared), len(lowered.query_order), len(lowered.key))
    return f"{most} axes of one role; it takes {MOST_AXES}" if most > MOST_AXES else None


def _derivatives(request: Request) -> str | None:
    if request.forward_mode:
        return "a forward derivative (jvp) is taken"
    return "a derivative of a derivative is taken" if request.derivatives > 1 else None


def _stored(request: Request) -> str | None:
    if not request.storage:
        return None
    if request.requires_grad or request.captured_grad:
        return "a gradient is wanted and keys are read where a cache keeps them"
    if "quantized" not in request.storage:
        return None
    if request.dtype == "float64":
        return "a quantized cache is met by float32 numbers, and q is float64"
    weights, lowered = request.spec.weights, request.lowered
    if isinstance(weights, Differential) and lowered.branch is None and request.size(*lowered.features) % 64:
        return "maps of differential weights are halves of the features, and packed ones come in runs of 32"
    return None


class Cpu:
    """The compiled core."""

    name = "cpu"
    capability = Capability(
        devices=frozenset({"cpu"}),
        weights=frozenset({"Softmax", "Sigmoid", "Differential"}),
        want=frozenset({"lse", "max_logit", "entropy", "argmax"}),
        transforms=True,
        reads=frozenset({"ring", "paged", "quantized"}),
        invariant=True,
        also=(_core, _clamp, _axes, _derivatives, _stored),
    )

    def cost(self, request: Request) -> Cost:
        """Both products over the pairs that the mask keeps, in one call; a causal mask keeps half."""
        share = 0.55 if request.lowered.keep is not None else 1.0
        return price(share * dense_flops(request), tensor_bytes(request), 0.0, efficiency=1.2, calls=0.5)

    def run(self, bound: Bound) -> Computed:
        """The output and whatever statistics were wanted."""
        weights, working = bound.spec.weights, bound.working_dtype
        sink = None if bound.lowered.sink is None else by_row(bound, bound.lowered.sink, working)
        rows = None if bound.lowered.row_table is None else bound.lowered.row_table[0].tensor
        tables = tuple(bound.tables[c] for c in captured_by_score(bound))
        # what is rounded to 16 bits is rounded once: sums of several parts are taken before; and the backward takes
        # grad . output from grad . values, where a rounded output would weigh more than the rest
        learns = torch.is_grad_enabled() and any(
            x is not None and x.requires_grad for x in (bound.q, bound.k, bound.v, sink, rows, *tables)
        )
        differs = bound.k.dtype != bound.v.dtype or (learns and bound.q.dtype != bound.v.dtype)
        summed = rows is not None or isinstance(weights, Differential)
        dtype = working if differs or isinstance(weights, Differential) else bound.v.dtype
        written = working if learns or summed else bound.v.dtype
        q, k, v = bound.q.resolve_neg(), bound.k, bound.v
        if bound.stored is None:
            k, v = (x.to(dtype).resolve_neg() for x in (k, v))
        q = q.to(dtype if q.dtype == bound.v.dtype or learns else working)
        output, lse, stats = fused(Pass.of(bound, written), q, k, v, sink, rows, tables)
        if isinstance(weights, Differential):
            output = _combined(bound, weights, output)
        return Computed(output, lse, stats)


def _combined(bound: Bound, weights: Differential, maps: torch.Tensor) -> torch.Tensor:
    """Two maps subtracted, and normalised by head in the paper's form."""
    if bound.lowered.lam is None:
        raise InternalError("differential weights were lowered without a lambda; please report this")
    lam = by_row(bound, bound.lowered.lam, bound.working_dtype)
    output = maps[0] - lam.unsqueeze(-1) * maps[1]
    if weights.lambda_init is not None:
        mean = output.square().mean(-1, keepdim=True) + weights.eps
        output = output * torch.rsqrt(mean) * (1.0 - weights.lambda_init)
    return output
