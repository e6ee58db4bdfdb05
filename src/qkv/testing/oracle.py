"""Attention by its definition: dense, float64, in the simplest code that says it.

Knows the mathematics of one call: scores, masks, weights, and the magnitudes that the error bound is made of.
Refuses to know tiles, strategies, caches and specs, so that it can judge every one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from qkv.errors import DtypeError, ShapeError, SizeMismatch, SpecError
from qkv.testing.magnitudes import logit_error, lost_values, row_maximum, value_span, weigh_values
from qkv.testing.oracle_weights import Differential, Linear, Sigmoid, Weighed

Weights = Literal["softmax"] | Sigmoid | Differential | Linear


@dataclass(frozen=True, slots=True)
class OracleResult:
    """The float64 output of one attention call, and what is needed to judge another computation of it.

    Coordinates: ``output`` and ``magnitude`` [b, h, i, e]; ``weights`` [b, h, i, j]; ``lse``, ``delta``, ``count``,
    ``max_logit``, ``entropy``, ``argmax`` [b, h, i]. Everything is float64, ``count`` and ``argmax`` int64.
    ``magnitude`` is A = sum_j |w_j| |v_j|, ``delta`` the error of a logit in float32 (NUMERICS.md), ``count`` the
    number of kept keys, ``entropy`` -sum_j w_j ln w_j in nats, ``argmax`` the first key of the largest weight.
    Bounds need two more: ``lost`` [b, h, i, e], what weights held in float16 or float32 lose to underflow, and
    ``span``, which broadcasts to it, the largest |v| of the head, inf where the output is no average of values.
    Edges: a row that keeps nothing has output 0, lse and max_logit -inf, entropy 0 and argmax -1, with or without a
    sink. ``lse`` is None for weights that no sum of exponentials normalises (sigmoid, linear). Under differential
    weights lse, max_logit, entropy and argmax carry the branch as their first axis.
    """

    output: Tensor
    lse: Tensor | None
    weights: Tensor
    magnitude: Tensor
    lost: dict[torch.dtype, Tensor]
    span: Tensor
    delta: Tensor
    count: Tensor
    max_logit: Tensor
    entropy: Tensor
    argmax: Tensor


def oracle(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    keep: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    score: Callable[[Tensor], Tensor] | None = None,
    sink: Tensor | None = None,
    off_by_one: bool = False,
    weights: Weights = "softmax",
) -> OracleResult:
    """Attention of ``q`` over ``k`` and ``v`` in float64, with its statistics and error magnitudes.

    Coordinates: q [b, h, i, d], k [b, hk, j, d], v [b, hk, j, e]; h a multiple of hk, query head n reads key head
    n // (h // hk). ``keep`` (bool, True is kept) and ``bias`` broadcast to [b, h, i, j]; ``sink`` is [h], a logit.
    ``scale=None`` is 1/sqrt(d). Logits are made in this order: scale, softcap, bias, score (any elementwise
    function of float64 logits), mask. Under ``Differential`` q and k have a leading axis of two branches.
    Edges: keys that are not kept cannot influence anything, NaN included; a row that keeps nothing is 0 with lse -inf;
    no keys at all is the same for every row.
    Raises: ShapeError and SizeMismatch for shapes that do not fit, DtypeError for a mask that is not bool, SpecError
    for a sink or ``off_by_one`` under weights that have no softmax.

    >>> x = torch.tensor([[[[1.0]]]])
    >>> oracle(x, torch.tensor([[[[0.0], [0.0]]]]), torch.tensor([[[[2.0], [4.0]]]])).output.item()
    3.0
    """
    _check(q, k, v)
    if weights != "softmax" and (sink is not None or off_by_one):
        raise SpecError("a sink or off_by_one adds to the sum of a softmax; these weights have none")
    groups = q.shape[-3] // k.shape[-3]
    q = q.double()
    k, v = k.double().repeat_interleave(groups, dim=-3), v.double().repeat_interleave(groups, dim=-3)
    kept = full_mask(keep, q, k)
    q = torch.where(kept.any(-1)[..., None], q, 0.0)  # a dead row's query and an unused key are never read: selection,
    k = torch.where(kept.any(-2)[..., None], k, 0.0)  # because 0 * NaN is NaN
    v = torch.where(kept.any(-2)[..., None], v, 0.0)
    if isinstance(weights, Linear):
        weighed = weights.weigh(q, k, kept)
        return _result(weighed, v, kept)
    scale = default_scale(q.shape[-1]) if scale is None else scale
    logits = (q @ k.transpose(-1, -2)) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if bias is not None:
        logits = logits + torch.where(kept, bias.double(), 0.0)
    if score is not None:
        logits = score(logits)
    logits = torch.where(kept, logits, -torch.inf)
    delta = logit_error(q, k, kept, scale, bias)
    if isinstance(weights, Sigmoid):
        return _result(weights.weigh(logits, kept, delta), v, kept)
    softmax, lse = softmax_with_lse(logits, kept, sink, off_by_one=off_by_one)
    if isinstance(weights, Differential):
        result = _result(weights.weigh(softmax, logits, lse, delta), v, kept)
        output, magnitude = weights.normalise(result.output, result.magnitude)
        return replace(result, output=output, magnitude=magnitude)
    # the largest term of the sum may be the sink's or the added 1, which together have what the keys leave
    top = torch.maximum(row_maximum(softmax, 0.0), 1 - softmax.sum(-1))
    return _result(Weighed(softmax, softmax, logits, delta, lse, softmax, top, 1.0), v, kept)


def default_scale(feature_size: int) -> float:
    """1/sqrt(feature size); 1 where there is no feature."""
    return 1 / math.sqrt(max(1, feature_size))


def softmax_with_lse(logits: Tensor, kept: Tensor, sink: Tensor | None, *, off_by_one: bool) -> tuple[Tensor, Tensor]:
    """The softmax over the last axis and the logarithm of its sum, which includes the sink.

    Coordinates: logits [..., h, i, j] with -inf where not kept; kept broadcasts to it; sink [h].
    Edges: a row that keeps nothing has weights 0 and lse -inf; its gradients are 0.
    """
    columns = [logits, _column(logits, -torch.inf)]
    if sink is not None:
        columns.append(sink.double()[:, None, None].expand(*logits.shape[:-1], 1))
    if off_by_one:
        columns.append(_column(logits, 0.0))
    alive = kept.any(-1)
    everything = torch.where(alive[..., None], torch.cat(columns, dim=-1), 0.0)
    top = everything.detach().amax(-1, keepdim=True)
    # a quotient, not exp(logit - lse): equal logits then have exactly equal weights 1/n, which dyadic relies on
    terms = torch.exp(everything - top)
    total = terms.sum(-1, keepdim=True)
    weights = torch.where(kept, terms[..., : logits.shape[-1]] / total, 0.0)
    return weights, torch.where(alive, (top + total.log()).squeeze(-1), -torch.inf)


def full_mask(keep: Tensor | None, q: Tensor, k: Tensor) -> Tensor:
    """The mask at its full size [b, h, i, j]; all True when ``keep`` is None.

    Raises: DtypeError when ``keep`` is not bool, SizeMismatch when it does not broadcast.
    """
    shape = (q.shape[-4], q.shape[-3], q.shape[-2], k.shape[-2])
    if keep is None:
        return torch.ones(shape, dtype=torch.bool, device=q.device)
    if keep.dtype != torch.bool:
        raise DtypeError(f"keep must be bool, True where a key is kept; it is {keep.dtype}")
    try:
        return keep.expand(shape)
    except RuntimeError as error:
        raise SizeMismatch(f"keep {tuple(keep.shape)} does not broadcast to b h i j = {shape}") from error


def _column(rows: Tensor, value: float) -> Tensor:
    """One more key for every row."""
    return rows.new_full((*rows.shape[:-1], 1), value)


def _result(weighed: Weighed, v: Tensor, kept: Tensor) -> OracleResult:
    weights, shares, sizes = weighed.weights, weighed.shares, weighed.magnitudes.detach()
    values = v.detach()
    argmax = torch.cat([_column(shares, -torch.inf), torch.where(kept, shares, -torch.inf)], dim=-1).argmax(-1) - 1
    return OracleResult(
        output=weigh_values(weights, v, kept),
        lse=weighed.lse,
        weights=weights,
        magnitude=weigh_values(sizes, values.abs(), kept),
        lost=lost_values(sizes, weighed.top.detach(), values, kept),
        span=value_span(values) * weighed.average,
        delta=weighed.delta if weighed.delta.dim() == 3 else weighed.delta.amax(0),
        count=kept.sum(-1),
        max_logit=row_maximum(weighed.logits, -torch.inf),
        entropy=0 - torch.xlogy(shares, shares).sum(-1),
        argmax=torch.where(kept.any(-1), argmax, -1),
    )


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() not in (4, 5) or not x.is_floating_point():
            raise ShapeError(f"{name} must be a float tensor with the axes b h i d; it is {x.dtype} {tuple(x.shape)}")
    seen = {"q": q.shape[-1], "k": k.shape[-1]}
    if q.shape[-1] != k.shape[-1]:
        raise SizeMismatch(f"the feature size differs: {seen}", coordinate="d", seen=seen)
    if k.shape[-4:-1] != v.shape[-4:-1]:
        raise SizeMismatch(f"k {tuple(k.shape)} and v {tuple(v.shape)} must agree in b, heads and j")
    if q.shape[-4] != k.shape[-4] or k.shape[-3] == 0 or q.shape[-3] % k.shape[-3]:
        raise SizeMismatch(f"q {tuple(q.shape)} and k {tuple(k.shape)}: b must agree, q heads be a multiple of k heads")
