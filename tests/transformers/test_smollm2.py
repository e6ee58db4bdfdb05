"""A real model: SmolLM2-135M-Instruct writes with qkv, token for token, what it writes with eager attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import qkv.transformers
from qkv.transformers import Loaded, generate, load_model

COUNT = 128
PROMPTS = [
    "Water boils at",
    "The capital of France is",
    'def fibonacci(n):\n    """Return the n-th Fibonacci number."""\n',
    "Once upon a time, in a village at the edge of a great forest, there lived a",
    "Explain in simple words why the sky is blue and why sunsets are red. Write three short paragraphs, and begin with "
    "the most important fact.",
]


@pytest.fixture(scope="module")
def loaded() -> Iterator[Loaded]:
    made = load_model()
    made.tokenizer.padding_side = "left"
    yield made


@torch.no_grad()
def continued(loaded: Loaded, prompts: list[str], attn: str) -> Tensor:
    """The ``COUNT`` most likely tokens after each prompt, [prompt, token]; the text may end before, and goes on."""
    if attn == "qkv":
        qkv.transformers.use(loaded.model)
    else:
        loaded.model.set_attn_implementation(attn)
    batch = loaded.tokenizer(prompts, return_tensors="pt", padding=True)
    model: Any = loaded.model
    made = model.generate(**batch, max_new_tokens=COUNT, min_new_tokens=COUNT, do_sample=False)
    return made[:, batch.input_ids.shape[1] :]


def test_five_prompts_in_a_left_padded_batch(loaded: Loaded) -> None:
    lengths = [len(loaded.tokenizer(p).input_ids) for p in PROMPTS]
    assert len(set(lengths)) == 5  # every row but one is padded
    eager = continued(loaded, PROMPTS, "eager")
    ours = continued(loaded, PROMPTS, "qkv")
    assert eager.shape == (5, COUNT)
    assert torch.equal(ours, eager)


@pytest.mark.parametrize("prompt", PROMPTS, ids=["water", "capital", "code", "forest", "sky"])
def test_a_prompt_alone(loaded: Loaded, prompt: str) -> None:
    assert torch.equal(continued(loaded, [prompt], "qkv"), continued(loaded, [prompt], "eager"))


def test_logits_of_a_left_padded_batch_are_close(loaded: Loaded) -> None:
    qkv.transformers.use(loaded.model)
    agreement = qkv.transformers.compare(loaded.model)
    assert agreement is not None and agreement.agrees and agreement.calls == 30
    assert agreement.difference < agreement.limit / 4


def test_text_is_streamed(loaded: Loaded) -> None:
    pieces: list[str] = []
    made = generate(loaded.model, loaded.tokenizer, "Name three colours.", 12, attn="qkv", on_text=pieces.append)
    assert "".join(pieces) == made.text and len(pieces) > 3
    assert made.num_prompt_tokens > 10  # the chat template is around it
