"""ml-explore/mlx#343, #3071, huggingface/transformers#28380: ALiBi slopes for head counts that are not powers of two,
by the formula for those that are, or an error.

qkv follows the published code: those of the next lower power of two, then every other one of twice as many.
"""

from __future__ import annotations

import pytest
import torch

import qkv
from tests.contract.scores import published_slopes


@pytest.mark.parametrize("heads", (1, 2, 3, 5, 6, 7, 8, 12, 16, 40, 71))
@pytest.mark.parametrize("strategy", ("reference", "chunked"))
def test_slopes(heads: int, strategy: str) -> None:
    """Read off the lse of a row with one key, whose score is the penalty."""
    q, k = torch.zeros(heads, 1, 1, dtype=torch.float64), torch.zeros(heads, 1, 1, dtype=torch.float64)
    spec = qkv.Spec("h i d, h j d, h j e -> h i e", score=qkv.alibi())
    with qkv.strategy(strategy):
        lse = spec.run(q, k, k, want=("lse",), positions={"i": 1}).lse
    assert lse is not None
    torch.testing.assert_close(-lse[:, 0], torch.tensor(published_slopes(heads), dtype=torch.float64))
    assert qkv.alibi_slopes(heads) == pytest.approx(published_slopes(heads))


def test_the_first_of_six() -> None:
    assert qkv.alibi_slopes(6) == pytest.approx((2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3))
