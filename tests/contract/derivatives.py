"""Gradients of a problem, by a strategy or by the definition: of q, k, v and everything learned."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.contract.problem import Problem


def gradients(
    problem: Problem, strategy: str | None, grad_output: Tensor, grad_lse: Tensor | None
) -> dict[str, Tensor]:
    """The gradients of ``sum(output * grad_output) + sum(lse * grad_lse)``, by name; by the definition for None.

    A row that keeps nothing has an lse of -inf, which takes no part.
    """
    leaves = {name: x.detach().clone().requires_grad_() for name, x in problem.leaves.items()}
    q, k, v = (x.detach().clone().requires_grad_() for x in problem.operands)
    if strategy is None:
        answer = problem.answer(leaves, (q, k, v))
        output, lse = answer.output, answer.lse
    else:
        want = () if grad_lse is None else ("lse",)
        result = problem.run(strategy, want=want, leaves=leaves, operands=(q, k, v))
        output, lse = result.output, result.lse
    total = (output * grad_output).sum()
    if grad_lse is not None:
        assert lse is not None
        total = total + torch.where(lse == -torch.inf, 0.0, lse * grad_lse).sum()
    named = {"q": q, "k": k, "v": v, **leaves}
    found = torch.autograd.grad(total, list(named.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(named, found, strict=True))


def drawn(problem: Problem, *, lse: bool) -> tuple[Tensor, Tensor | None]:
    """A gradient for the output and, where wanted and there is one, for the lse."""
    answer = problem.answer()
    generator = torch.Generator().manual_seed(problem.seed + 5)
    wide = torch.float64 if problem.dtype == torch.float64 else torch.float32
    grad = torch.randn(answer.output.shape, generator=generator, dtype=torch.float64).to(problem.dtype)
    if not lse or answer.lse is None:
        return grad, None
    return grad, torch.randn(answer.lse.shape, generator=generator, dtype=torch.float64).to(wide)
