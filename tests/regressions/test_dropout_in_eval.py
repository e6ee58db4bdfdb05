"""A dropout share given to attention dropped weights in evaluation too, because the function knows nothing of
``module.eval()`` (pytorch/pytorch#124464; meta-pytorch/torchtune#1791, huggingface/pytorch-image-models#1978).

qkv drops nothing unless a call says so; a model that attends through qkv is deterministic in evaluation; and what is
dropped forward is what is dropped backward.
"""

from __future__ import annotations

import torch

import qkv
from tests.regressions.models import llama
from tests.regressions.plain import answers, close, tensors


@torch.no_grad()
def test_a_model_in_eval_drops_nothing() -> None:
    ids = torch.tensor([[5, 9, 12, 7, 30, 8]])
    dropping = llama("qkv", attention_dropout=0.9)
    kept = llama("qkv")(ids, use_cache=False).logits
    assert dropping(ids, use_cache=False).logits.equal(kept)
    assert not dropping.train()(ids, use_cache=False).logits.equal(kept)
    assert dropping.eval()(ids, use_cache=False).logits.equal(kept)


def test_nothing_is_dropped_unless_a_call_says_so() -> None:
    q, k, v = tensors()
    for name, result in answers(qkv.Spec(), q, k, v):
        for _, again in answers(qkv.Spec(), q, k, v, dropout=0.0):
            close(again.output, result.output, name)


def test_the_same_weights_are_dropped_backward() -> None:
    q, k, v = (x.double().requires_grad_() for x in tensors(5, 70))
    for name, result in answers(qkv.Spec(), q, k, v, dropout=0.5, seed=3):
        (gradient,) = torch.autograd.grad(result.output.sum(), v)
        # the output is linear in v: with the same weights dropped, <gradient, v> is the sum of the output
        close((gradient * v).sum(), result.output.sum(), name)
