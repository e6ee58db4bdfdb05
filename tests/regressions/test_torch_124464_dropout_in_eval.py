"""pytorch/pytorch#124464, #99293 (and many models built on it): scaled_dot_product_attention drops weights whenever its
``dropout_p`` is not 0, in evaluation as in training.

qkv: dropout is an argument of the call, never of the spec, 0 unless it is given, and repeatable by a seed.
"""

from __future__ import annotations

import pytest
import torch

import qkv


def test_nothing_is_dropped_unless_the_call_says_so() -> None:
    q, k, v = (torch.randn(1, 2, 16, 8) for _ in range(3))
    spec = qkv.Spec(keep=qkv.causal())
    assert spec(q, k, v).equal(spec(q, k, v))
    with pytest.raises(TypeError, match="dropout"):
        qkv.Spec(dropout=0.5)  # type: ignore[call-arg]


def test_what_is_dropped_follows_from_the_seed() -> None:
    q, k, v = (torch.randn(1, 2, 16, 8) for _ in range(3))
    spec = qkv.Spec(keep=qkv.causal())
    first, again, other = (spec(q, k, v, dropout=0.5, seed=seed) for seed in (1, 1, 2))
    assert first.equal(again)
    assert not first.equal(other)
    torch.manual_seed(0)
    drawn = spec(q, k, v, dropout=0.5)
    torch.manual_seed(0)
    assert spec(q, k, v, dropout=0.5).equal(drawn)
