"""The oracle's gradients: against differences of the oracle, and with every planted fault of a backward pass found."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from qkv.testing import (
    BACKWARD_FAULTS,
    Gradient,
    Sigmoid,
    SimulatedBackward,
    SimulatedKernel,
    Sizes,
    make_keep,
    oracle,
    oracle_gradients,
    poison,
    randn,
    sharp,
    worst_gradient_ratio,
)

SMALL = Sizes(batch=1, query_heads=2, key_heads=1, query_length=3, key_length=4, feature_size=2, value_size=3)
KEEP = torch.tensor([[True, False, True, True], [False, False, False, False], [True, True, False, True]])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"softcap": 1.5},
        {"sink": True},
        {"off_by_one": True},
        {"bias": True},
        {"sigmoid": Sigmoid(-1.0)},
        {"scale": 0.3},
    ],
)
def test_gradients_are_slopes(options: dict[str, Any]) -> None:
    case = randn(SMALL, torch.float64, seed=1)
    generator = torch.Generator().manual_seed(2)
    tensors = {"q": case.q, "k": case.k, "v": case.v}
    if options.get("sink"):
        tensors["sink"] = torch.randn(2, generator=generator, dtype=torch.float64)
    if options.get("bias"):
        tensors["bias"] = torch.randn(2, 1, 4, generator=generator, dtype=torch.float64)
    rest = {name: value for name, value in options.items() if name not in tensors}
    grad = torch.randn(1, 2, 3, 3, generator=generator, dtype=torch.float64)
    found = oracle_gradients(**tensors, grad_output=grad, keep=KEEP, **rest)
    assert set(found) == set(tensors)

    def total(name: str, x: Tensor) -> float:
        given = {**tensors, name: x}
        weights = rest.get("sigmoid", "softmax")
        plain = {key: value for key, value in rest.items() if key != "sigmoid"}
        return float((oracle(**given, keep=KEEP, weights=weights, **plain).output * grad).sum())

    for name, x in tensors.items():
        slopes = torch.zeros(x.numel(), dtype=torch.float64)
        for place in range(x.numel()):
            step = torch.zeros(x.numel(), dtype=torch.float64)
            step[place] = 1e-5
            step = step.view(x.shape)
            slopes[place] = (total(name, x + step) - total(name, x - step)) / 2e-5
        torch.testing.assert_close(found[name].value, slopes.view(x.shape), rtol=1e-6, atol=1e-8)
        assert found[name].magnitude.shape == x.shape
        assert bool((found[name].magnitude >= found[name].value.abs() * (1 - 1e-12)).all())


def test_what_is_not_kept_has_no_gradient() -> None:
    keep = make_keep("padding", 2, 17, 33, seed=3) & make_keep("dead rows", 2, 17, 33)
    case = poison(Sizes(), keep=keep, seed=3)
    found = oracle_gradients(case.q, case.k, case.v, torch.ones(2, 4, 17, 16), keep=keep)
    unused = ~keep.any(2)[:, 0]
    assert all(bool(gradient.value.isfinite().all()) for gradient in found.values())
    assert bool((found["k"].value[:, 0][unused] == 0).all())
    assert bool((found["v"].value[:, 1][unused] == 0).all())
    assert bool((found["q"].value[0] == 0).all())


@cache
def simulated(dtype: torch.dtype) -> list[tuple[tuple[Any, ...], dict[str, Gradient]]]:
    calls: list[tuple[tuple[Any, ...], dict[str, Gradient]]] = []
    for number, name in enumerate(("causal", "dead rows", "padding", "random")):
        keep = make_keep(name, 2, 65, 70, seed=number)
        make = (randn, sharp)[number % 2]
        case = make(Sizes(query_length=65, key_length=70), dtype, keep=keep, seed=number)
        output, lse = SimulatedKernel().run(case.q, case.k, case.v, mask=keep)
        grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(number)).to(dtype)
        right = oracle_gradients(case.q, case.k, case.v, grad, keep=keep)
        calls.append(((case.q, case.k, case.v, output, lse, grad, keep.expand(2, 4, 65, 70), 0.25), right))
    return calls


def worst(fault: str, dtype: torch.dtype) -> float:
    ratios = [0.0]
    for arguments, right in simulated(dtype):
        found = SimulatedBackward(fault).run(*arguments)
        ratios += [worst_gradient_ratio(gradient, right[name]) for name, gradient in zip("qkv", found, strict=True)]
    return max(ratios)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_right_backward_pass_is_within_the_bound(dtype: torch.dtype) -> None:
    assert worst("", dtype) <= 1


@pytest.mark.parametrize("fault", BACKWARD_FAULTS)
def test_every_planted_fault_is_found(fault: str) -> None:
    killed = Counter(dtype for dtype in (torch.float32, torch.bfloat16, torch.float16) if worst(fault, dtype) > 1)
    # a sum in bfloat16 is what a bfloat16 kernel may do at the last step: only float32 and float16 must show it
    assert killed[torch.float32]
    assert killed[torch.float16]
    assert killed[torch.bfloat16] or fault == "sums in bfloat16"


def test_float64_gradients_have_a_tight_bound() -> None:
    case = randn(SMALL, torch.float64, seed=7)
    q, k, v = (x.requires_grad_() for x in (case.q, case.k, case.v))
    grad = torch.ones(1, 2, 3, 3, dtype=torch.float64)
    output = torch.softmax(q @ k.repeat_interleave(2, 1).mT / 2**0.5, -1) @ v.repeat_interleave(2, 1)
    found = torch.autograd.grad(output, (q, k, v), grad)
    right = oracle_gradients(q, k, v, grad)
    assert max(worst_gradient_ratio(x, right[name]) for name, x in zip("qkv", found, strict=True)) <= 1
    assert worst_gradient_ratio(found[2] * (1 + 1e-12), right["v"]) > 1
