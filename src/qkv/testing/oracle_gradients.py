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

The part of the bound that comes from the logits' error sums ``delta_i`` times the same terms.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qkv.testing.oracle import OracleResult, default_scale, full_mask, oracle, weigh_values
from qkv.testing.oracle_weights import Sigmoid


@dataclass(frozen=True, slots=True)
class Gradient:
    """One operand's gradient: ``value``, the ``magnitude`` of its terms, ``delta_magnitude`` their sum weighted by the
    error of a logit, and ``count``, how many products one element sums at most.
    """

    value: Tensor
    magnitude: Tensor
    delta_magnitude: Tensor
    count: Tensor


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
) -> dict[str, Gradient]:
    """The gradients of sum(output * grad_output) for ``q``, ``k``, ``v`` and, where given, ``bias`` and ``sink``.

    Coordinates: as in :func:`oracle`; ``grad_output`` [b, h, i, e]. Each gradient has its operand's shape, in float64.
    Edges: rows that keep nothing, and keys that nothing keeps, have gradient 0, whatever they hold.
    Raises: as :func:`oracle`.
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
        terms = _Terms(leaves["q"], leaves["k"], leaves["v"], do, keep, result, scale, softcap, sigmoid)
        magnitudes = {"q": terms.q, "k": terms.k, "v": terms.v}
        if bias is not None:
            magnitudes["bias"] = lambda rows: _reduce(terms.scores * rows[..., None], bias.shape)
        if sink is not None:
            magnitudes["sink"] = lambda rows: (terms.sink_weight(leaves["sink"]) * terms.row_sums * rows).sum((0, 2))
        ones = torch.ones_like(result.delta)
        count = result.count.amax().clamp(min=terms.queries_per_key)
        return {
            name: Gradient(values[name], magnitude(ones), magnitude(result.delta), count)
            for name, magnitude in magnitudes.items()
        }


class _Terms:
    """The terms of every product, from the detached inputs; each magnitude is linear in a weight per row."""

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
    ) -> None:
        self.groups = q.shape[1] // k.shape[1]
        kept = full_mask(keep, q, k)
        self.result, self.do, self.kept = result, do, kept
        self.query = torch.where(kept.any(-1)[..., None], q, 0.0)
        used = kept.any(-2)[..., None]
        self.key = torch.where(used, k.repeat_interleave(self.groups, 1), 0.0)
        value = torch.where(used, v.repeat_interleave(self.groups, 1), 0.0)
        self.weights = result.weights
        self.queries_per_key = int(_per_group(kept.double().sum(2), self.groups).amax()) if kept.numel() else 0
        products = torch.where(kept, do.abs() @ value.abs().transpose(-1, -2), 0.0)
        self.row_sums = weigh_values(self.weights, value.abs(), kept).mul(do.abs()).sum(-1)
        self.scores = self.weights * (products + self.row_sums[..., None])
        if sigmoid is not None:
            self.scores = self.weights * (1 - self.weights) * products
        self.dots = self.scores * abs(scale)
        if softcap is not None:
            raw = torch.where(kept, self.query @ self.key.transpose(-1, -2) * scale, 0.0)
            self.dots = self.dots * (1 - torch.tanh(raw / softcap).square())

    def q(self, rows: Tensor) -> Tensor:
        return weigh_values(self.dots, self.key.abs(), self.kept) * rows[..., None]

    def k(self, rows: Tensor) -> Tensor:
        return self._per_key(self.dots, self.query.abs() * rows[..., None])

    def v(self, rows: Tensor) -> Tensor:
        return self._per_key(self.weights, self.do.abs() * rows[..., None])

    def sink_weight(self, sink: Tensor) -> Tensor:
        lse = self.result.lse
        return torch.where(self.result.count > 0, torch.exp(sink[:, None] - (0.0 if lse is None else lse)), 0.0)

    def _per_key(self, terms: Tensor, x: Tensor) -> Tensor:
        return _per_group(terms.transpose(-1, -2) @ x, self.groups)


def _per_group(x: Tensor, groups: int) -> Tensor:
    """[b, h, ...] summed over the query heads that share a key head."""
    return x.reshape(x.shape[0], -1, groups, *x.shape[2:]).sum(2)


def _reduce(x: Tensor, shape: torch.Size) -> Tensor:
    """``x`` summed over the axes that ``shape`` broadcasts along."""
    return x.sum_to_size(shape)
