"""Float64 gradients of the oracle, and for each the magnitude of the terms that it sums.

Knows the backward pass of softmax and sigmoid attention as products. Refuses to know the others: differential and
linear weights, and a ``score`` function, are checked by gradcheck in float64.

Magnitudes, one A for each product (w the weights, do the output's gradient, s the logits, r the scaled dot products)::

    dv_j = sum_i w_ij do_i                    A_v = sum_i w_ij |do_i|
    dw_ij = do_i . v_j                        B_ij = |do_i| . |v_j|
    D_i = sum_j w_ij dw_ij                    E_i = sum_j w_ij B_ij
    ds_ij = w_ij (dw_ij - D_i)                G_ij = w_ij (B_ij + E_i)          sigmoid: w_ij (1 - w_ij) B_ij
    dq_i = scale sum_j ds_ij ds/dr k_j        A_q = scale sum_j G_ij |ds/dr| |k_j|
    dk_j = scale sum_i ds_ij ds/dr q_i        A_k = scale sum_i G_ij |ds/dr| |q_i|
    dbias = ds summed over what it lacks      G summed likewise
    dsink = -sum_i w_sink,i D_i               sum_i w_sink,i E_i

The part of the bound that comes from an error delta_i of the logits sums expm1(2 delta_i) times the same terms: a
weight changes by e^delta - 1 of itself, and so does the row sum that is taken from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qkv.testing.magnitudes import WEIGHT_FLOOR, underflow_loss, weigh_values
from qkv.testing.oracle import OracleResult, default_scale, full_mask, oracle
from qkv.testing.oracle_weights import Sigmoid


@dataclass(frozen=True, slots=True)
class Gradient:
    """One operand's gradient in float64, and what bounds another computation of it in ``dtype``.

    Coordinates: ``value`` and, broadcastable to it, ``magnitude`` (the sum of the absolute values of its terms),
    ``spread`` (the same terms times expm1(2 delta), delta the error of their row's logits) and ``lost`` (what terms
    below the smallest normal number lose). ``count`` is the most products that one element sums.
    """

    value: Tensor
    magnitude: Tensor
    spread: Tensor
    lost: Tensor
    count: int
    dtype: torch.dtype


def oracle_gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grad_output: Tensor,
    *,
    keep: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sink: Tensor | None = None,
    off_by_one: bool = False,
    sigmoid: Sigmoid | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Gradient]:
    """The gradients of sum(output * grad_output) for ``q``, ``k``, ``v`` and, where given, ``bias`` and ``sink``.

    Coordinates: as in :func:`oracle`; ``grad_output`` [b, h, i, e]. Each gradient has its operand's shape, in float64.
    ``dtype`` is that of the computation to be judged, by default that of ``q``.
    Edges: rows that keep nothing, and keys that nothing keeps, have gradient 0, whatever they hold.
    Raises: as :func:`oracle`.

    >>> q = torch.ones(1, 1, 1, 2)
    >>> oracle_gradients(q, q, q, q)["v"].value
    tensor([[[[1., 1.]]]], dtype=torch.float64)
    """
    given = {"q": q, "k": k, "v": v, "bias": bias, "sink": sink}
    leaves = {name: x.detach().double().requires_grad_() for name, x in given.items() if x is not None}
    result = oracle(
        leaves["q"],
        leaves["k"],
        leaves["v"],
        keep=keep,
        bias=leaves.get("bias"),
        scale=scale,
        softcap=softcap,
        sink=leaves.get("sink"),
        off_by_one=off_by_one,
        weights="softmax" if sigmoid is None else sigmoid,
    )
    alive = (result.count > 0)[..., None]
    do = torch.where(alive, grad_output.double(), 0.0)
    total = torch.where(alive, result.output * do, 0.0).sum()
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
    values = dict(zip(leaves, found, strict=True))
    scale = default_scale(q.shape[-1]) if scale is None else scale
    with torch.no_grad():
        terms = _Terms(
            leaves["q"], leaves["k"], leaves["v"], do, keep, result, scale, softcap, sigmoid, dtype or q.dtype
        )
        return {name: terms.gradient(name, x, values[name]) for name, x in leaves.items()}


class _Terms:
    """The terms of every product, from the detached inputs; a magnitude is linear in ``weights`` and ``scores``."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        do: Tensor,
        keep: Tensor | None,
        result: OracleResult,
        scale: float,
        softcap: float | None,
        sigmoid: Sigmoid | None,
        dtype: torch.dtype,
    ) -> None:
        self.groups, self.dtype, self.do, self.result = q.shape[1] // k.shape[1], dtype, do, result
        self.kept = full_mask(keep, q, k)
        used = self.kept.any(-2)[..., None]
        self.query = torch.where(self.kept.any(-1)[..., None], q, 0.0)
        self.key = torch.where(used, k.repeat_interleave(self.groups, 1), 0.0)
        value = torch.where(used, v.repeat_interleave(self.groups, 1), 0.0)
        self.weights = result.weights
        products = torch.where(self.kept, do.abs() @ value.abs().transpose(-1, -2), 0.0)
        self.row_sums = (weigh_values(self.weights, value.abs(), self.kept) * do.abs()).sum(-1)
        self.scores = self.weights * (products + self.row_sums[..., None])
        if sigmoid is not None:
            self.scores = self.weights * (1 - self.weights) * products
        self.slope = torch.full_like(self.scores[..., :1, :1], abs(scale))
        if softcap is not None:
            raw = torch.where(self.kept, self.query @ self.key.transpose(-1, -2) * scale, 0.0)
            self.slope = abs(scale) * (1 - torch.tanh(raw / softcap).square())

    def gradient(self, name: str, x: Tensor, value: Tensor) -> Gradient:
        """The gradient of one operand with its magnitudes."""
        delta = self.result.delta * (2.0**-29 if self.dtype == torch.float64 else 1.0)
        grown = torch.expm1(2 * delta)[..., None]
        floor = WEIGHT_FLOOR[self.dtype][0]
        one = torch.ones_like(self.result.delta)
        lost_weights = underflow_loss(self.weights, one, self.dtype)
        # a score's gradient is lost where it is small itself, and in float32 where the weight was
        lost_scores = underflow_loss(self.scores, one, self.dtype)
        if self.dtype != torch.float16:
            lost_scores = torch.where(self.weights < floor, self.scores, lost_scores)
        return Gradient(
            value=value,
            magnitude=self._sum(name, x, self.weights, self.scores),
            spread=self._sum(name, x, self.weights * grown, self.scores * grown),
            lost=self._sum(name, x, lost_weights, lost_scores),
            count=self._count(),
            dtype=self.dtype,
        )

    def _sum(self, name: str, x: Tensor, weights: Tensor, scores: Tensor) -> Tensor:
        """The terms of one operand's product, made from these weights and score gradients, added up."""
        if name == "q":
            return weigh_values(scores * self.slope, self.key.abs(), self.kept)
        if name == "k":
            return _per_group((scores * self.slope).transpose(-1, -2) @ self.query.abs(), self.groups)
        if name == "v":
            return _per_group(weights.transpose(-1, -2) @ self.do.abs(), self.groups)
        if name == "bias":
            return scores.sum_to_size(x.shape)
        # the sink's weight times the row sum; how much of it is asked for, the row's own weights say
        lse = torch.zeros_like(self.result.delta) if self.result.lse is None else self.result.lse.detach()
        sink = torch.where(self.result.count > 0, torch.exp(x[:, None] - lse), 0.0)
        share = weights.sum(-1) / self.weights.sum(-1).clamp(min=1e-300)
        return (sink * self.row_sums * share).sum((0, 2))

    def _count(self) -> int:
        if self.kept.numel() == 0:
            return 0
        per_key = _per_group(self.kept.double().sum(2), self.groups).amax()
        return int(max(per_key, self.result.count.amax()))


def _per_group(x: Tensor, groups: int) -> Tensor:
    """[b, h, ...] summed over the query heads that share a key head."""
    return x.reshape(x.shape[0], x.shape[1] // groups, groups, *x.shape[2:]).sum(2)
