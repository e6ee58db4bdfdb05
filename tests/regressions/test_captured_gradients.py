"""A tensor that a score function captures had no gradient, or only some shapes and devices had one:
meta-pytorch/attention-gym#20 and #171, pytorch/pytorch#145460, #145208 (scalars) and #157677.

In qkv the gradient of every captured float tensor flows, on every strategy that runs the call: numbers, tables, rows
read many times, and functions of other tensors.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import qkv
from tests.regressions.plain import answers, close, definition, tensors

DISTANCE = (torch.arange(6)[:, None] - torch.arange(6)).abs()
KIND = torch.tensor([0, 2, 1, 0, 0, 2])
CASES: dict[str, tuple[Callable[[], Tensor], Callable[[Tensor], qkv.ScoreTerm], Callable[[Tensor], Tensor]]] = {
    "a number": (
        lambda: torch.tensor(0.7),
        lambda t: qkv.score(lambda score, i, j: score - t * abs(i - j)),
        lambda t: -t * DISTANCE,
    ),
    "one for each head": (
        lambda: torch.randn(2),
        lambda t: qkv.score(lambda score, h, i, j: score - t[h] * abs(i - j)),
        lambda t: -t[:, None, None] * DISTANCE,
    ),
    "rows read many times": (
        lambda: torch.randn(6),
        lambda t: qkv.score(lambda score, i, j: score + t[abs(i - j)]),
        lambda t: t[DISTANCE],
    ),
    "an index read from a tensor": (
        lambda: torch.randn(3),
        lambda t: qkv.score(lambda score, j: score + t[KIND[j]]),
        lambda t: t[KIND],
    ),
    "the whole bias": (lambda: torch.randn(2, 6, 6), lambda t: qkv.bias(t, "h i j"), lambda t: t),
    "a bias of keys": (lambda: torch.randn(2, 6), lambda t: qkv.bias(t, "b j"), lambda t: t[:, None, None]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_the_definition(case: str) -> None:
    make, term, bias = CASES[case]
    q, k, v = tensors()
    table = make().requires_grad_()
    wanted, _ = definition(q, k, v, bias=bias(table))
    (gradient,) = torch.autograd.grad(wanted.square().sum(), table)
    for name, result in answers(qkv.Spec(score=term(table)), q, k, v):
        close(result.output, wanted, name)
        close(torch.autograd.grad(result.output.square().sum(), table)[0], gradient, name, 1e-4)


def test_it_flows_on_to_what_the_tensor_was_made_from() -> None:
    q, k, v = tensors()
    weight = torch.randn(4, requires_grad=True)
    made = torch.nn.functional.softplus(weight[:2] + weight[2:])
    wanted, _ = definition(q, k, v, bias=-made[:, None, None] * DISTANCE)
    (gradient,) = torch.autograd.grad(wanted.square().sum(), weight, retain_graph=True)
    for name, result in answers(qkv.Spec(score=qkv.alibi(made)), q, k, v):
        (found,) = torch.autograd.grad(result.output.square().sum(), weight, retain_graph=True)
        close(found, gradient, name, 1e-4)


def test_a_score_that_ignores_the_dot_product() -> None:
    """pytorch/pytorch#185991: backward failed where the new score does not depend on the old one. Here such a function
    is refused, and one that multiplies the score by 0 has gradients of 0.
    """
    with pytest.raises(qkv.TraceError, match="does not use the score"):
        qkv.score(lambda score, i, j: -abs(i - j) / 2)
    q, k, v = (x.requires_grad_() for x in tensors())
    spec = qkv.Spec(score=qkv.score(lambda score, i, j: 0.0 * score - abs(i - j) / 2))
    wanted, _ = definition(q, k, v, bias=-DISTANCE / 2, scale=0.0)
    for name, result in answers(spec, q, k, v):
        close(result.output, wanted, name)
        found = torch.autograd.grad(result.output.sum(), (q, k, v))
        assert not found[0].any() and not found[1].any() and bool(found[2].any()), name
