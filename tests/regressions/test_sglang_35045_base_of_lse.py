"""sgl-project/sglang#35045, flashinfer-ai/flashinfer#4485, lightseekorg/tokenspeed#571: an lse to base 2 merged with
weights to base e.

qkv: the lse is a natural logarithm and includes sinks, so that two parts of the keys merge by it into the whole.
"""

from __future__ import annotations

import pytest
import torch

import qkv


@pytest.mark.parametrize("strategy", ("reference", "chunked"))
def test_two_parts_merge_into_the_whole(strategy: str) -> None:
    q, k, v = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 40, 8), torch.randn(1, 2, 40, 8)
    spec = qkv.Spec()
    with qkv.strategy(strategy):
        whole = spec.run(q, k, v, want=("lse",))
        parts = [spec.run(q, k[:, :, part], v[:, :, part], want=("lse",)) for part in (slice(0, 13), slice(13, 40))]
    first, second = (part.lse for part in parts)
    assert first is not None and second is not None and whole.lse is not None
    lse = torch.logaddexp(first, second)
    torch.testing.assert_close(lse, whole.lse)
    merged = sum(torch.exp(part.lse - lse)[..., None] * part.output for part in parts)
    torch.testing.assert_close(merged, whole.output)
