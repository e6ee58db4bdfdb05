"""huggingface/transformers#29285, #25681, vllm-project/vllm#863: rotary angles made in bfloat16, which holds no odd
number above 256: neighbouring positions are turned alike, and long contexts degrade.

qkv: positions are whole numbers, angles are float64, and rotated features keep float32 until the scores are made.
"""

from __future__ import annotations

import pytest
import torch

import qkv


@pytest.mark.parametrize("strategy", ("reference", "chunked", "sdpa"))
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
def test_scores_depend_on_the_distance_alone_far_out(dtype: torch.dtype, strategy: str) -> None:
    q, k, v = (torch.randn(1, 1, 16, 32).to(dtype) for _ in range(3))
    spec = qkv.Spec(position=qkv.rope())
    with qkv.strategy(strategy):
        near = spec(q, k, v)
        far = spec(q, k, v, positions={"i": 100_003, "j": 100_003})
    assert far.dtype == dtype
    torch.testing.assert_close(far, near, rtol=2 * torch.finfo(dtype).eps, atol=2 * torch.finfo(dtype).eps)


def test_neighbours_are_told_apart() -> None:
    """Positions 4096 and 4097 are one number in bfloat16."""
    q = k = torch.ones(1, 1, 2, 8, dtype=torch.bfloat16)
    spec = qkv.Spec(position=qkv.rope())
    with qkv.strategy("reference"):
        weights = spec.run(q, k, q, positions={"i": 4096, "j": 4096}, want=("weights",)).stats["weights"]
    assert weights[0, 0, 0, 0] > weights[0, 0, 0, 1] + 0.1


def test_the_model_may_be_cast() -> None:
    """Nothing about the rotation is stored in a tensor that a cast of the model could round."""
    assert not any(isinstance(value, torch.Tensor) for value in vars(type(qkv.rope())).values())
    frequencies, factor = qkv.rope().frequencies(64, 10)
    assert frequencies.dtype == torch.float64
    assert factor == 1.0
