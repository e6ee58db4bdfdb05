"""``sliding_window=w`` meant w keys in one backend and w + 1 in another (huggingface/transformers#29623, #39408), and a
window of 0 kept nothing or everything, by path (unslothai/unsloth#8253).

``qkv.window(w)`` is w keys, the query's own included, and so is what transformers' models ask for.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qkv
from qkv.transformers import qkv_attention, watch
from tests.regressions.plain import answers, close, definition, tensors


class Layer(nn.Module):
    is_causal = True


def band(width: int, queries: int = 6, keys: int = 6) -> torch.Tensor:
    distance = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)
    return (distance >= 0) & (distance < width)


@pytest.mark.parametrize("width", [1, 2, 5, 6, 9])
def test_a_window_of_w_is_w_keys(width: int) -> None:
    q, k, v = tensors()
    wanted, _ = definition(q, k, v, kept=band(width))
    for name, result in answers(qkv.Spec(keep=qkv.causal() & qkv.window(width)), q, k, v):
        close(result.output, wanted, name)
    assert qkv.window(width).count(6) == int(band(width).sum())
    with watch.watching(lambda call: None):
        output, _ = qkv_attention(Layer(), q, k, v, None, sliding_window=width)
    close(output.transpose(1, 2), wanted, "qkv_attention")


@pytest.mark.parametrize("width", [1, 3, 6])
def test_a_decoding_step_sees_the_last_w_keys(width: int) -> None:
    q, k, v = tensors(1, 6)
    wanted, _ = definition(q, k, v, kept=band(width, 1))
    for name, result in answers(qkv.Spec(keep=qkv.window(width)), q, k, v, align="end"):
        close(result.output, wanted, name)
    with watch.watching(lambda call: None):
        output, _ = qkv_attention(Layer(), q, k, v, None, sliding_window=width)
    close(output.transpose(1, 2), wanted, "qkv_attention")


def test_sides_are_neighbours_without_the_own_key() -> None:
    assert qkv.window(2, 0).count(9) == qkv.window(3).count(9)


def test_a_window_of_nothing_is_refused() -> None:
    with pytest.raises(qkv.SpecError):
        qkv.window(0)
