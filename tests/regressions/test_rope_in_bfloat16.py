"""Rotary angles computed in the model's bfloat16, which cannot tell position 257 from 256: far tokens lose their
places. huggingface/transformers#29285, vllm-project/vllm#863, huggingface/candle#3520.

qkv computes angles in float64 for every type, so that a far query turns as it should and scores depend on distances
alone.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import qkv
from tests.regressions.plain import answers, close, definition


def turned(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """The definition in float64, half-split pairs."""
    half = x.shape[-1] // 2
    angle = positions.double()[:, None] * theta ** (-torch.arange(half, dtype=torch.float64) / half)
    first, second = x.double()[..., :half], x.double()[..., half:]
    return torch.cat((first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()), -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("first", [0, 257, 15_962, 1_000_003])
def test_far_positions_keep_their_angles(dtype: torch.dtype, first: int) -> None:
    x = torch.randn(1, 2, 4, 16).to(dtype)
    positions = torch.arange(first, first + 4)
    found = qkv.rope(1e4).rotate(x, positions, length=first + 4)
    assert found.dtype == dtype
    close(found, turned(x, positions, 1e4), str(dtype), 2 * torch.finfo(dtype).eps)


def test_neighbours_beyond_256_stay_apart_in_bfloat16() -> None:
    x = torch.ones(1, 4, 16, dtype=torch.bfloat16)
    found = qkv.rope(1e4).rotate(x, torch.tensor([256, 257, 4096, 4097]), length=4098)
    assert not found[0, 0].equal(found[0, 1]) and not found[0, 2].equal(found[0, 3])


@pytest.mark.parametrize("shift", [1, 4096, 1_000_003])
def test_a_common_offset_changes_nothing(shift: int) -> None:
    q, k, v = (torch.randn(1, 2, 5, 16) for _ in range(3))
    places = torch.arange(5)
    wanted, _ = definition(turned(q, places, 1e4), turned(k, places, 1e4), v, kept=torch.ones(5, 5).tril().bool())
    spec = qkv.Spec(position=qkv.rope(1e4), keep=qkv.causal())
    for name, result in answers(spec, q, k, v, positions={"i": shift, "j": shift}):
        close(result.output, wanted, name)
