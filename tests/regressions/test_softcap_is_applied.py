"""Capped scores dropped without a word by a path whose kernel cannot cap (vllm-project/vllm-metal#665; Gemma 2
with flash attention before huggingface/transformers#31887), or capped after masking, which makes a dropped key one of
score -cap.

qkv caps on every strategy or refuses, before the mask, and the gradient knows the cap.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qkv
from qkv.transformers import qkv_attention, watch
from tests.regressions.plain import answers, close, definition, tensors

CAP = 1.5
KEPT = torch.ones(6, 6, dtype=torch.bool).tril()


class Layer(nn.Module):
    is_causal = True


def test_scores_beyond_the_cap() -> None:
    q, k, v = (x.mul(3).requires_grad_() for x in tensors())
    wanted, lse = definition(q, k, v, kept=KEPT, cap=CAP)
    assert not torch.allclose(wanted, definition(q, k, v, kept=KEPT)[0], atol=0.1)
    gradients = torch.autograd.grad(wanted.square().sum(), (q, k, v))
    for want in ((), ("lse",)):
        for name, result in answers(qkv.Spec(keep=qkv.causal(), score=qkv.softcap(CAP)), q, k, v, want=want):
            close(result.output, wanted, name, 1e-4)
            if result.lse is not None:
                close(result.lse, lse, name)
            for ours, theirs in zip(
                torch.autograd.grad(result.output.square().sum(), (q, k, v)), gradients, strict=True
            ):
                close(ours, theirs, name, 1e-4)


@pytest.mark.parametrize("given", ["no mask", "bool", "float"])
def test_the_argument_of_models(given: str) -> None:
    q, k, v = (3 * x for x in tensors())
    lowest = torch.finfo(torch.float32).min
    mask = {"no mask": None, "bool": KEPT[None, None], "float": torch.where(KEPT, 0.0, lowest)[None, None]}[given]
    with watch.watching(lambda call: None):
        output, _ = qkv_attention(Layer(), q, k, v, mask, softcap=CAP)
    close(output.transpose(1, 2), definition(q, k, v, kept=KEPT, cap=CAP)[0], given)


def test_terms_apply_in_the_order_given() -> None:
    q, k, v = tensors()
    bias = torch.where(KEPT, 0.0, -torch.inf)
    masked_last = qkv.Spec(score=(qkv.softcap(CAP), qkv.bias(bias, "i j")))
    for name, result in answers(masked_last, q, k, v):
        close(result.output, definition(q, k, v, kept=KEPT, cap=CAP)[0], name)
    for cap in (0.0, -1.0, torch.inf, torch.nan):
        with pytest.raises(qkv.SpecError):
            qkv.softcap(cap)
