"""Prompts padded on the left that answer otherwise than alone: positions counted from the padding, padding attended to,
or rows of padding that become NaN and spoil the next layer.

A model that attends through qkv gives a padded prompt the logits and the tokens that it has alone.
"""

from __future__ import annotations

import torch

from tests.regressions.models import llama

PROMPT = torch.tensor([[5, 9, 12, 7, 30]])
LONGER = torch.tensor([[11, 3, 44, 21, 8, 17, 29, 33]])


def padded() -> dict[str, torch.Tensor]:
    there = torch.ones(2, 8, dtype=torch.long)
    there[0, :3] = 0
    ids = torch.cat((torch.nn.functional.pad(PROMPT, (3, 0)), LONGER))
    return {"input_ids": ids, "attention_mask": there}


@torch.no_grad()
def test_logits_as_alone() -> None:
    model, given = llama("qkv"), padded()
    positions = (given["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    logits = model(**given, position_ids=positions, use_cache=False).logits
    assert bool(logits.isfinite().all())
    torch.testing.assert_close(logits[0, 3:], model(PROMPT, use_cache=False).logits[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits[1], model(LONGER, use_cache=False).logits[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_tokens_as_alone() -> None:
    model = llama("qkv")
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    together = model.generate(**padded(), **settings)[:, -6:]
    for row, prompt in enumerate((PROMPT, LONGER)):
        alone = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)[0, -6:]
        assert together[row].equal(alone)
