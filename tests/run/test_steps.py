"""Steps with a cache that are known: the same numbers as steps that are not, whoever shares the spec."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad

import qkv
from qkv.run import steps

PATTERN = "b (h g) i d, b h j d, b h j e -> b (h g) i e"


def tokens(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    q = torch.randn(1, 4, count, 8, generator=made)
    k, v = (torch.randn(1, 2, count, 8, generator=made) for _ in range(2))
    return q, k, v


def written(spec: qkv.Spec, cache: qkv.cache.Cache, count: int, seed: int) -> torch.Tensor:
    """Some tokens at once, then one by one."""
    q, k, v = tokens(count, seed)
    cuts = [0, count // 2, *range(count // 2 + 1, count + 1)]
    with torch.inference_mode():
        made = [spec(*(x[:, :, a:b].contiguous() for x in (q, k, v)), cache=cache) for a, b in pairwise(cuts)]
    return torch.cat(made, dim=2)


@pytest.mark.parametrize("make", [qkv.cache.Dense, lambda: qkv.cache.Ring(6), lambda: qkv.cache.Quantized(8)])
def test_a_step_in_the_middle_of_another_one_changes_nothing(
    make: Callable[[], qkv.cache.Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of two threads that share a spec. The mask goes by position: with another length it keeps other keys."""
    spec = qkv.Spec(PATTERN, keep=qkv.causal() & qkv.window(6) & qkv.keep(lambda i, j: (i + j) % 3 != 0))
    alone = written(spec, make(), 20, 0)
    other = make()
    written(spec, other, 18, 1)  # of as many slots
    between, entered = tokens(1, 2), list[bool]()
    plain = steps._empty

    def empty(*shape: Any, **named: Any) -> torch.Tensor:
        if not entered:  # once, and not for the step that is made here
            entered.append(True)
            spec(*between, cache=other)
            entered.clear()
        return plain(*shape, **named)

    monkeypatch.setattr(steps, "_empty", empty)
    assert torch.equal(written(spec, make(), 20, 0), alone)
    assert 18 < other.length <= 32


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_a_known_step_is_not_taken_where_a_forward_derivative_is() -> None:
    spec, cache = qkv.Spec(PATTERN, keep=qkv.causal()), qkv.cache.Dense()
    written(spec, cache, 8, 0)
    q, _, _ = tokens(1, 1)
    with torch.no_grad(), forward_ad.dual_level():
        dual = forward_ad.make_dual(q, torch.ones_like(q))
        with pytest.raises(qkv.SpecError, match="transform"):
            spec(dual, cache=cache)
