"""After one long sequence, short ones kept the long one's frequencies (huggingface/transformers#27226), or every length
got those of the longest (vllm-project/vllm#5093).

In qkv frequencies are a function of the length in use, so that calls do not remember one another; up to the original
length nothing is scaled.
"""

from __future__ import annotations

import pytest
import torch

import qkv
from tests.regressions.plain import answers, close

ORIGINAL = 8
DYNAMIC = qkv.rope(1e4, scaling=qkv.scaling.dynamic_ntk(4.0, ORIGINAL))


def attended(rope: qkv.Rope, length: int) -> dict[str, torch.Tensor]:
    noise = torch.Generator().manual_seed(length)
    q, k, v = (torch.randn(1, 2, length, 16, generator=noise) for _ in range(3))
    spec = qkv.Spec(position=rope, keep=qkv.causal())
    return {name: result.output for name, result in answers(spec, q, k, v)}


def test_short_after_long_is_as_before() -> None:
    before = attended(DYNAMIC, 5)
    attended(DYNAMIC, 40)
    for name, output in attended(DYNAMIC, 5).items():
        assert output.equal(before[name]), name


@pytest.mark.parametrize("length", [1, 5, ORIGINAL])
def test_up_to_the_original_length_nothing_is_scaled(length: int) -> None:
    plain = attended(qkv.rope(1e4), length)
    for name, output in attended(DYNAMIC, length).items():
        assert output.equal(plain[name]), name


@pytest.mark.parametrize("length", [ORIGINAL + 1, 16, 40])
def test_beyond_it_the_base_grows_with_the_length(length: int) -> None:
    base = 1e4 * (4.0 * length / ORIGINAL - 3.0) ** (16 / 14)
    wanted = attended(qkv.rope(base), length)
    for name, output in attended(DYNAMIC, length).items():
        close(output, wanted[name], name)
