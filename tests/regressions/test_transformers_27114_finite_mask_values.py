"""huggingface/transformers#27114, #17306, pytorch/pytorch#109517: masks of the smallest finite number. Two of them add
up to -inf; in float16 one plus a logit of -16 does; and a row of nothing but them is not masked at all: it becomes the
mean of every value, padding included.

qkv's masks are truth values: they combine by logic, float masks are refused with what to write, and there is no finite
number that stands for "not kept".
"""

from __future__ import annotations

import pytest
import torch

import qkv


@pytest.mark.parametrize("strategy", ("reference", "chunked", None))
def test_left_padding_under_causal(strategy: str | None) -> None:
    """The rows of padding keep nothing and are 0; the others are those of the sequence without its padding."""
    q, k, v = (torch.randn(1, 2, 5, 4, dtype=torch.float16) for _ in range(3))
    there = torch.tensor([[False, False, False, True, True]])
    spec = qkv.Spec(keep=qkv.causal() & qkv.padding(there))
    with qkv.strategy(strategy or spec.plan(q, k, v).strategy):
        output = spec(q, k, v)
    assert (output[:, :, :3] == 0).all()
    alone = qkv.attention(*(x[:, :, 3:] for x in (q, k, v)), keep=qkv.causal())
    torch.testing.assert_close(output[:, :, 3:], alone)


@pytest.mark.parametrize("value", (torch.finfo(torch.float32).min, -torch.inf, -1e4, 1.0))
def test_a_float_mask_is_no_mask(value: float) -> None:
    with pytest.raises(qkv.DtypeError) as caught:
        qkv.padding(torch.full((1, 5), value))
    assert str(caught.value).split("\n") == [
        "padding needs a tensor of bool values; this one is torch.float32.",
        "  True means kept; write mask.bool(), or mask > -1 for a mask of 0 and -inf.",
    ]
