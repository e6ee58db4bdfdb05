"""Every kind of weights beside its definition: the term as a user writes it, and what the oracle is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import qkv
from qkv.terms.weights import Weights
from qkv.testing import Differential, Linear, Sigmoid, Sizes
from tests.contract.scores import Leaves


@dataclass(frozen=True, slots=True)
class Weighing:
    """One kind of weights: its leaves, the term made of them, and the oracle's keyword arguments from the leaves in
    float64.
    """

    leaves: Leaves
    term: Callable[[Leaves], Weights | None]
    oracle: Callable[[Leaves], dict[str, Any]] = field(default=lambda leaves: {})
    kind: str = "softmax"


def _randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + 29))


def softmax(sizes: Sizes, seed: int) -> Weighing:
    return Weighing({}, lambda x: None)


def sink(sizes: Sizes, seed: int) -> Weighing:
    return Weighing(
        {"sink": _randn(seed, sizes.query_heads)}, lambda x: qkv.softmax(sink=x["sink"]), lambda x: {"sink": x["sink"]}
    )


def one_sink(sizes: Sizes, seed: int) -> Weighing:
    return Weighing({}, lambda x: qkv.softmax(sink=0.5), lambda x: {"sink": torch.full((sizes.query_heads,), 0.5)})


def off_by_one(sizes: Sizes, seed: int) -> Weighing:
    return Weighing({}, lambda x: qkv.softmax(off_by_one=True), lambda x: {"off_by_one": True})


def sigmoid(sizes: Sizes, seed: int) -> Weighing:
    return Weighing({}, lambda x: qkv.sigmoid(bias=-1.5), lambda x: {"weights": Sigmoid(-1.5)}, "sigmoid")


def differential(sizes: Sizes, seed: int) -> Weighing:
    return Weighing(
        {},
        lambda x: qkv.differential(0.4),
        lambda x: {"weights": Differential(0.4, normalize=False)},
        "differential",
    )


def paper(sizes: Sizes, seed: int) -> Weighing:
    """The paper's form, a learned lambda for each head."""
    return Weighing(
        {"lam": 0.3 + 0.1 * _randn(seed, sizes.query_heads)},
        lambda x: qkv.differential(x["lam"], lambda_init=0.6),
        lambda x: {"weights": Differential(x["lam"], lambda_init=0.6)},
        "differential",
    )


def clamped(sizes: Sizes, seed: int) -> Weighing:
    return Weighing(
        {"lam": 0.5 + 0.1 * _randn(seed, sizes.query_heads)},
        lambda x: qkv.differential(x["lam"], renormalize="clamp"),
        lambda x: {"weights": Differential(x["lam"], normalize=False, renormalize="clamp")},
        "differential",
    )


def _linear(**options: Any) -> Callable[[Sizes, int], Weighing]:
    def made(sizes: Sizes, seed: int) -> Weighing:
        return Weighing({}, lambda x: qkv.linear(**options), lambda x: {"weights": Linear(**options)}, "linear")

    return made


def decaying(sizes: Sizes, seed: int) -> Weighing:
    """A learned decay for each head, near 1."""
    first = sizes.key_length - sizes.query_length
    return Weighing(
        {"decay": 0.9 + 0.09 * torch.rand(sizes.query_heads, generator=torch.Generator().manual_seed(seed))},
        lambda x: qkv.linear(decay=x["decay"]),
        lambda x: {"weights": Linear(decay=x["decay"], first_query_position=first)},
        "linear",
    )


WEIGHINGS: dict[str, Callable[[Sizes, int], Weighing]] = {
    "softmax": softmax,
    "sink": sink,
    "one sink": one_sink,
    "off by one": off_by_one,
    "sigmoid": sigmoid,
    "differential": differential,
    "paper": paper,
    "clamped": clamped,
    "linear": _linear(feature_map="elu1"),
    "linear relu": _linear(feature_map="relu"),
    "linear identity": _linear(feature_map="identity", normalize=False),
    "linear decay": decaying,
}
"""Every kind of weights by name."""
