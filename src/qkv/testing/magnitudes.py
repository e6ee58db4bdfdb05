"""What the errors of an attention call are made of: sums of absolute values, and what underflow loses.

Knows the sizes of terms, in float64. Refuses to know how much of them is allowed: that is ``bounds``.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: where weights held in a dtype begin to lose digits, and how much one can lose there. float16 has steps of 2^-24 below
#: 2^-14; float32 and bfloat16 end at 2^-126, and an exponential may be flushed to 0 below it
WEIGHT_FLOOR: dict[torch.dtype, tuple[float, float]] = {
    torch.float16: (2.0**-14, 2.0**-25),
    torch.bfloat16: (2.0**-126, 2.0**-126),
    torch.float32: (2.0**-126, 2.0**-126),
    torch.float64: (0.0, 0.0),
}


def weigh_values(weights: Tensor, v: Tensor, kept: Tensor) -> Tensor:
    """sum_j w_j v_j over the kept keys, by selection: the product with a key that is not kept is never formed.

    Coordinates: weights and kept [b, h, i, j], v [b, h, j, e]; the result is [b, h, i, e].
    Edges: finite keys go through one matrix product, where an unkept key's weight is an exact 0; the others one by one.
    """
    finite = v.isfinite().all(-1)
    output = weights @ torch.where(finite[..., None], v, 0.0)
    for j in (j for j, clean in enumerate(finite.flatten(0, -2).all(0)) if not clean):
        special = kept[..., j] & ~finite[..., None, j]
        output = output + torch.where(special[..., None], weights[..., j, None] * v[..., None, j, :], 0.0)
    return output


def logit_error(q: Tensor, k: Tensor, kept: Tensor, scale: float, bias: Tensor | None) -> Tensor:
    """The delta of NUMERICS.md: 4 sqrt(D) 2^-24 max_j sum_d |q_d k_jd| scale, and 4 * 2^-24 max_j |bias_j|.

    Coordinates: q [..., i, d], k [..., j, d]; the result is [..., i], the maximum over the kept keys. The second
    part is the rounding of a sum of which the bias is one term: 2^-24 |logit + bias| for the sum, and as much for its
    own rounding, the subtraction of the maximum and the change of base.
    Edges: 0 where nothing is kept.
    """
    products = torch.where(kept, q.abs() @ k.abs().transpose(-1, -2), 0.0) * abs(scale)
    error = 4 * q.shape[-1] ** 0.5 * products
    if bias is not None:
        error = error + 4 * torch.where(kept, bias.double().abs(), 0.0)
    return 2.0**-24 * row_maximum(error.detach(), 0.0)


def row_maximum(rows: Tensor, least: float) -> Tensor:
    """The maximum over the last axis, at least ``least``, which is also the answer where there is nothing."""
    column = rows.new_full((*rows.shape[:-1], 1), least)
    return torch.cat([rows, column], dim=-1).amax(-1)


def underflow_loss(terms: Tensor, top: Tensor, dtype: torch.dtype) -> Tensor:
    """What each term loses when it is held in ``dtype`` relative to ``top``: min(term, loss top) below floor top.

    Coordinates: terms [..., j], at least 0; top [...]. See ``WEIGHT_FLOOR`` for floor and loss.
    """
    floor, loss = WEIGHT_FLOOR[dtype]
    top = top[..., None]
    return torch.where(terms < floor * top, torch.minimum(terms, loss * top), 0.0)


def lost_values(weights: Tensor, top: Tensor, v: Tensor, kept: Tensor) -> dict[torch.dtype, Tensor]:
    """sum_j loss_j |v_j| for weights held in float16 and in float32, [b, h, i, e] each."""
    lost: dict[torch.dtype, Tensor] = {}
    for dtype in (torch.float16, torch.float32):
        loss = underflow_loss(weights, top, dtype)
        lost[dtype] = weigh_values(loss, v.abs(), kept) if bool(loss.any()) else v.new_zeros(1, 1, 1, 1)
    return lost


def value_span(v: Tensor) -> Tensor:
    """The largest finite |v| of every head and feature, [b, h, 1, e]: no average of values is larger."""
    size = torch.where(v.isfinite(), v.abs(), 0.0).transpose(-1, -2)
    return row_maximum(size, 0.0)[..., None, :]
