"""Inputs for each kind of tiny model, and how far two of its outputs lie apart where a token stands."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.transformers.families import VOCABULARY, Family

LENGTH = 12
PADDED = 4
SIDES = ("left", "right", "none")


def tokens(length: int = LENGTH, batch: int = 2, seed: int = 1) -> Tensor:
    """Token ids without special ones, [batch, length]."""
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def padding(side: str, length: int = LENGTH, batch: int = 2) -> Tensor:
    """The 2-D mask whose first row lacks ``PADDED`` tokens on one side."""
    there = torch.ones(batch, length, dtype=torch.long)
    if side == "left":
        there[0, :PADDED] = 0
    elif side == "right":
        there[0, length - PADDED :] = 0
    return there


def inputs(family: Family, side: str) -> dict[str, Tensor]:
    """What a model of the family's kind reads, padded on ``side``."""
    noise = torch.Generator().manual_seed(2)
    ids, there = tokens(), padding(side)
    text = {"input_ids": ids, "attention_mask": there}
    decoder = {"decoder_input_ids": tokens(7, seed=3)}
    image = {"pixel_values": torch.randn(2, 3, 16, 16, generator=noise)}
    if family.kind in ("causal", "encoder"):
        return text
    if family.kind == "seq2seq":
        return text | decoder
    if family.kind == "vision":
        return image
    if family.kind == "clip":
        return text | image
    if family.kind == "speech2text":
        return {"input_features": torch.randn(2, 8, 40, generator=noise)} | decoder
    assert family.kind == "speech", family.kind
    samples = torch.ones(2, 400, dtype=torch.long)
    if side != "none":
        samples[0, 250:] = 0  # sound is padded at the end
    return {"input_values": torch.randn(2, 400, generator=noise), "attention_mask": samples}


@torch.no_grad()
def output(model: Any, given: dict[str, Tensor]) -> Tensor:
    """Logits or last hidden states, [batch, position, feature]; for two towers the table of similarities."""
    result = model(**given)
    for name in ("logits", "logits_per_image", "last_hidden_state"):
        if getattr(result, name, None) is not None:
            return getattr(result, name)
    raise AssertionError(f"{type(model).__name__} returned none of the outputs compared here")


def where_tokens_stand(family: Family, given: dict[str, Tensor], like: Tensor) -> Tensor:
    """Which positions of the output are compared: all but padding, [batch, position]."""
    if family.kind in ("causal", "encoder"):
        return given["attention_mask"].bool()
    if family.kind == "speech":
        there = torch.ones(like.shape[:2], dtype=torch.bool)
        there[0, int(like.shape[1] * given["attention_mask"][0].float().mean()) - 1 :] = False
        return there
    return torch.ones(like.shape[:2], dtype=torch.bool)


def difference(family: Family, given: dict[str, Tensor], ours: Tensor, eager: Tensor) -> float:
    """The largest difference at a position, relative to the largest output at that position."""
    relative = (ours.double() - eager.double()).abs().amax(-1) / eager.double().abs().amax(-1)
    return (
        float(relative[where_tokens_stand(family, given, eager)[: relative.shape[0]]].max())
        if relative.dim() == 2
        else float(relative.max())
    )


def greedy(model: Any, given: dict[str, Tensor], count: int = 10, **settings: Any) -> Tensor:
    """The tokens that the model adds, always ``count`` of them."""
    made = model.generate(
        **given, max_new_tokens=count, min_new_tokens=count, do_sample=False, num_beams=1, pad_token_id=0, **settings
    )
    return made[:, -count:]
