"""qkv's side of a comparison: a spec run by the strategy that the person chose, or a line that says why not.

Knows that a strategy may be missing or refuse. Refuses to take another one instead.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

import qkv
from harness import Bench, Thunk
from qkv.errors import Refused

GROUPED = "b (h g) i d, b h j d, b h j e -> b (h g) i e"


def exists(bench: Bench) -> bool:
    """Whether the strategy is there; a note says so where it is not."""
    if bench.strategy in qkv.strategies():
        return True
    bench.note(f'qkv: there is no strategy "{bench.strategy}" yet; there are {", ".join(qkv.strategies())}')
    return False


def by(bench: Bench, spec: qkv.Spec, *tensors: torch.Tensor, label: str = "qkv", **options: object) -> dict[str, Thunk]:
    """One labelled way to run ``spec``, or none and a note: the strategy is missing, or refuses the call."""
    if not exists(bench):
        return {}
    name = bench.strategy
    try:
        with qkv.strategy(name):
            spec.plan(*tensors, **options)
    except Refused as refused:
        bench.note(f"{label}: strategy {name} refuses {spec}: {'; '.join(refused.reasons)}")
        return {}

    def run() -> object:
        with qkv.strategy(name):
            return spec(*tensors, **options)

    return {label: run}


def step(forward: Callable[[], torch.Tensor], wanted: tuple[torch.Tensor, ...], gradient: torch.Tensor) -> Thunk:
    """Forward and backward: the gradients of ``wanted`` for the output's ``gradient``."""

    def run() -> object:
        return torch.autograd.grad(forward(), wanted, gradient)

    return run
