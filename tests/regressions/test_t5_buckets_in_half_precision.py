"""T5's logarithmic buckets computed in the model's 16-bit type, or with another logarithm, round to a neighbouring
bucket: long distances then read another learned number than in training.

qkv computes buckets as published, in float32, whatever the type of q, k, v and the table.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import qkv
from tests.regressions.plain import answers


def published(relative: Tensor, bidirectional: bool, count: int, longest: int) -> Tensor:
    """The bucket of key position minus query position, as in the paper's code."""
    found = torch.zeros_like(relative)
    if bidirectional:
        count //= 2
        found = found + (relative > 0).long() * count
        distance = relative.abs()
    else:
        distance = -relative.clamp(max=0)
    exact = count // 2
    far = torch.log(distance.clamp(min=1).float() / exact) / math.log(longest / exact) * (count - exact)
    return found + torch.where(distance < exact, distance, (exact + far.long()).clamp(max=count - 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bidirectional", [True, False])
def test_every_distance_reads_its_bucket(bidirectional: bool, dtype: torch.dtype) -> None:
    n, count, longest = 300, 32, 128
    place = n // 2
    buckets = published(torch.arange(n) - place, bidirectional, count, longest)
    q, k = torch.zeros(1, count, 1, 1, dtype=dtype), torch.zeros(1, count, n, 1, dtype=dtype)
    v = torch.eye(n, dtype=dtype).expand(1, count, n, n)
    # Head n reads -inf from every bucket but the n-th, so that the keys it keeps are exactly that bucket's.
    table = torch.full((count, count), -torch.inf, dtype=dtype).fill_diagonal_(0.0)
    spec = qkv.Spec(score=qkv.relative_bias(table, bidirectional=bidirectional, max_distance=longest))
    for name, result in answers(spec, q, k, v, positions={"i": place}):
        assert result.output[0, :, 0].ne(0).equal(buckets == torch.arange(count)[:, None]), name
