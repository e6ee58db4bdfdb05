"""Attention over any pattern by its definition: einsum over letters, softmax over the keys, einsum again.

Knows patterns as text. Refuses to know roles: which letters are keys is told by the tests.
"""

from __future__ import annotations

import re
from string import ascii_letters

import torch
from torch import Tensor


def axes(text: str) -> list[list[str]]:
    """The coordinates of each axis of one tensor's pattern."""
    return [part.strip("()").split() for part in re.findall(r"\([^)]*\)|\S+", text)]


def flat(text: str) -> list[str]:
    """Its coordinates in order."""
    return [name for axis in axes(text) for name in axis if name != "1"]


def split(x: Tensor, text: str, sizes: dict[str, int]) -> Tensor:
    """One axis for each coordinate."""
    return x.reshape([sizes[name] for name in flat(text)])


def attention(
    pattern: str, q: Tensor, k: Tensor, v: Tensor, keys: str, sizes: dict[str, int], keep: Tensor | None = None
) -> Tensor:
    """The output in float64. ``keys`` are the key coordinates, ``keep`` a mask over (all other score coordinates in Q's
    order, then the keys).
    """
    inputs, output = pattern.split("->")
    texts = [text.strip() for text in inputs.split(",")]
    q, k, v = (split(x.double(), text, sizes) for x, text in zip((q, k, v), texts, strict=True))
    key_names = keys.split()
    tied = not [name for name in flat(texts[0]) if name in flat(texts[1]) and name not in flat(texts[2])]
    features = (
        flat(texts[0])[-1:] if tied else [n for n in flat(texts[0]) if n in flat(texts[1]) and n not in flat(texts[2])]
    )
    rows = [name for name in flat(texts[0]) if name not in features]
    letters = {name: ascii_letters[n] for n, name in enumerate(dict.fromkeys(flat(" ".join(texts))))}

    def spelled(names: list[str]) -> str:
        return "".join(letters[name] for name in names)

    scale = torch.tensor([sizes[name] for name in features]).prod().double() ** -0.5
    logits = (
        torch.einsum(f"{spelled(flat(texts[0]))},{spelled(flat(texts[1]))}->{spelled(rows + key_names)}", q, k) * scale
    )
    shape = logits.shape
    logits = logits.flatten(len(rows))
    if keep is not None:
        logits = torch.where(keep.expand(shape).flatten(len(rows)), logits, -torch.inf)
    weights = torch.softmax(logits, -1).nan_to_num(0.0).reshape(shape)
    made = torch.einsum(f"{spelled(rows + key_names)},{spelled(flat(texts[2]))}->{spelled(flat(output))}", weights, v)
    return made.reshape([int(torch.tensor([sizes[n] for n in axis if n != "1"]).prod()) for axis in axes(output)])
