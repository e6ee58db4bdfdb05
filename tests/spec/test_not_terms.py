"""What a spec says of arguments that are no terms, or not together."""

from __future__ import annotations

import pytest
import torch

import qkv


def message(**parts: object) -> list[str]:
    with pytest.raises(qkv.SpecError) as caught:
        qkv.Spec(**parts)  # type: ignore[arg-type]
    return str(caught.value).split("\n")


MASK = torch.ones(3, 4, dtype=torch.bool)


def named(i: object) -> object:
    return i


@pytest.mark.parametrize(
    ("parts", "lines"),
    [
        (
            {"keep": MASK},
            [
                "keep is a Tensor of shape (3, 4), not a keep term.",
                "  Give qkv.padding(mask, 'b j'), the names being those of its axes; True means kept.",
            ],
        ),
        (
            {"keep": lambda i, j: i >= j},
            ["keep is the lambda, not a keep term.", "  Give qkv.keep(function)."],
        ),
        (
            {"keep": 3},
            [
                "keep is 3 (int), not a keep term.",
                "  Give qkv.causal(), qkv.keep(lambda i, j: ...) or qkv.padding(mask, 'b j').",
            ],
        ),
        (
            {"score": MASK},
            [
                "score is a Tensor of shape (3, 4), not a score term.",
                "  Give qkv.bias(tensor, 'h i j'), the names being those of its axes.",
            ],
        ),
        (
            {"score": named},
            ["score is function named, not a score term.", "  Give qkv.score(function)."],
        ),
        (
            {"score": [qkv.softcap(3.0), MASK]},
            [
                "score term 2 is a Tensor of shape (3, 4), not a score term.",
                "  Give qkv.bias(tensor, 'h i j'), the names being those of its axes.",
            ],
        ),
        (
            {"score": 3},
            [
                "score is 3 (int), not a score term.",
                "  Give qkv.softcap(c), qkv.alibi(), qkv.bias(tensor, 'h i j') or qkv.score(lambda score, i, j: ...).",
            ],
        ),
        (
            {"weights": "softmax"},
            [
                "weights is 'softmax' (str), not a weights term.",
                "  Give qkv.softmax(), qkv.sigmoid(), qkv.differential(...) or qkv.linear().",
            ],
        ),
        ({"position": 3}, ["position is 3 (int), not a position term.", "  Give qkv.rope(...)."]),
        (
            {"weights": qkv.linear(), "scale": 2.0},
            [
                "linear weights take no scale: inside phi it would be a change of q, and a factor of phi(q) . phi(k) "
                "cancels where rows are divided by their sum.",
                "  Scale q before the call, or leave scale out.",
            ],
        ),
    ],
)
def test_what_is_said_of_arguments_that_are_no_terms(parts: dict[str, object], lines: list[str]) -> None:
    assert message(**parts) == lines
