"""Writing text with a loaded model, token by token, with the time that each part took.

Greedy choice only: the same prompt gives the same tokens, so that two ways to compute attention can be compared token
for token. This module refuses to know how a model is loaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from ..errors import ModelError
from . import hf
from .registry import use
from .tiny import configs_of

Implementation = Literal["qkv", "sdpa", "eager"]


@dataclass(frozen=True, slots=True)
class Generation:
    """What was written, and how long it took: ``first_token_s`` to read the prompt and choose one token, ``rest_s`` for
    the others.
    """

    text: str
    tokens: tuple[int, ...]
    num_prompt_tokens: int
    first_token_s: float
    rest_s: float
    ended: bool

    @property
    def tokens_per_s(self) -> float:
        """Tokens after the first, per second; 0 when there are none."""
        return (len(self.tokens) - 1) / self.rest_s if len(self.tokens) > 1 and self.rest_s > 0 else 0.0


def generate(
    model: PreTrainedModel,
    tokenizer: Any,
    prompt: str,
    max_new_tokens: int = 128,
    *,
    attn: Implementation | None = None,
    on_text: Callable[[str], None] | None = None,
    chat: bool = True,
    until_end: bool = True,
) -> Generation:
    """The continuation of ``prompt``, at most ``max_new_tokens`` tokens, the most likely one at each step.

    ``attn`` computes attention that way meanwhile (None: as the model is set). ``on_text`` is given each piece of text
    as it comes, whole characters only. ``chat`` puts the prompt into the tokenizer's chat template, where it has one.
    ``until_end=False`` goes on after the end-of-text token. Raises ``ModelError`` for an empty prompt and a model that
    cannot generate.
    """
    if not prompt.strip():
        raise ModelError("the prompt is empty.\n  Give some text to continue.")
    if not model.can_generate():
        raise ModelError(f"{type(model).__name__} does not generate text.\n  Load a causal language model.")
    ids = _encode(tokenizer, prompt, chat).to(model.device)
    stream = _Stream(tokenizer, on_text or (lambda _: None))
    with _attention(model, attn), torch.no_grad():
        began = time.perf_counter()
        generating: Any = model
        written: Tensor = generating.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            min_new_tokens=None if until_end else max_new_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            streamer=stream,
        )
    tokens = tuple(int(t) for t in written[0, ids.shape[1] :])
    times = stream.times or [began]
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    ended = bool(tokens) and len(tokens) < max_new_tokens
    return Generation(text, tokens, ids.shape[1], times[0] - began, times[-1] - times[0], ended)


def _encode(tokenizer: Any, prompt: str, chat: bool) -> Tensor:
    if chat and tokenizer.chat_template:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        return tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    return tokenizer(prompt, return_tensors="pt").input_ids


class _Stream(BaseStreamer):
    """Takes the time of each token and hands its text on, as soon as its characters are whole."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]) -> None:
        self.tokenizer, self.on_text = tokenizer, on_text
        self.times: list[float] = []
        self.tokens: list[int] = []
        self.shown = ""
        self.prompt_seen = False

    def put(self, value: Tensor) -> None:
        """The prompt first, then one token at a time."""
        if not self.prompt_seen:
            self.prompt_seen = True
            return
        self.times.append(time.perf_counter())
        self.tokens.extend(int(t) for t in value.flatten())
        self.show(self.tokenizer.decode(self.tokens, skip_special_tokens=True), whole=False)

    def end(self) -> None:
        """What was held back is shown as it is."""
        self.show(self.tokenizer.decode(self.tokens, skip_special_tokens=True), whole=True)

    def show(self, text: str, *, whole: bool) -> None:
        """Hands on what is new; a character that is still missing bytes waits."""
        if not whole and text.endswith("\ufffd"):
            return
        if len(text) > len(self.shown):
            self.on_text(text[len(self.shown) :])
            self.shown = text


@contextmanager
def _attention(model: PreTrainedModel, attn: Implementation | None) -> Generator[None]:
    """The model with its attention computed as ``attn`` says, afterwards as before."""
    if attn is None or attn == hf.implementation_of(model.config):
        yield
        return
    before = [(config, hf.implementation_of(config)) for config in configs_of(model)]
    if attn == "qkv":
        use(model)
    else:
        hf.set_all(model, attn)
    try:
        yield
    finally:
        for config, implementation in before:
            hf.set_one(config, implementation)
