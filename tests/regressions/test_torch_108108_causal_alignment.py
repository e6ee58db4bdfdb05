"""pytorch/pytorch#108108, #144858: ``is_causal=True`` aligns at the first key whatever the lengths are, so that a
single query decoding over a cache attends to the first key alone.

qkv compares positions: with unequal lengths the call says where the queries stand, or it is an error.
"""

from __future__ import annotations

import pytest
import torch

import qkv


@pytest.mark.parametrize("strategy", ("reference", "chunked", None))
def test_a_decoded_token_sees_the_whole_cache(strategy: str | None) -> None:
    q, k, v = torch.randn(1, 2, 1, 8), torch.randn(1, 2, 50, 8), torch.randn(1, 2, 50, 8)
    spec = qkv.Spec(keep=qkv.causal())
    with qkv.strategy(strategy or spec.plan(q, k, v, align="end").strategy):
        found = spec(q, k, v, align="end")
    torch.testing.assert_close(found, torch.nn.functional.scaled_dot_product_attention(q, k, v))


def test_lengths_alone_say_nothing() -> None:
    q, k = torch.randn(1, 2, 1, 8), torch.randn(1, 2, 50, 8)
    with pytest.raises(qkv.PositionError, match="nothing says where the queries stand among the keys"):
        qkv.attention(q, k, k, keep=qkv.causal())


def test_the_planner_never_takes_is_causal_for_unequal_lengths() -> None:
    q, k = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 50, 8)
    plan = qkv.Spec(keep=qkv.causal()).plan(q, k, k, align="end")
    assert plan.strategy == "cpu"
    assert plan.refused["sdpa"].startswith("is_causal aligns at the first key")
