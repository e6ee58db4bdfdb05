"""pytorch/pytorch#39321, #27968: ``key_padding_mask`` of nn.MultiheadAttention is True where a key is left out, the
boolean mask of scaled_dot_product_attention where it takes part; byte and float masks mean a third and a fourth thing.

qkv: a mask says what is kept, everywhere, and nothing but truth values is a mask.
"""

from __future__ import annotations

import pytest
import torch

import qkv

KEPT = torch.tensor([[True, True, False]])


@pytest.mark.parametrize(
    "keep",
    (
        qkv.padding(KEPT),
        qkv.padding(KEPT[:, None].expand(1, 3, 3), "b i j"),
        qkv.keep(lambda b, j: KEPT[b, j]),
        ~qkv.padding(~KEPT),
        qkv.first(2),
        qkv.blocks(torch.tensor([[True, False]] * 2), 2),
    ),
    ids=str,
)
def test_true_is_kept_in_every_term(keep: qkv.Keep) -> None:
    q, k, v = torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2), torch.eye(3)[None, None]
    assert qkv.attention(q, k, v, keep=keep)[0, 0].gt(0).equal(KEPT.expand(3, 3))


@pytest.mark.parametrize("dtype", (torch.uint8, torch.int64, torch.float32), ids=str)
def test_numbers_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(qkv.DtypeError, match="True means kept"):
        qkv.padding(KEPT.to(dtype))
