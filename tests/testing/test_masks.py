"""The named masks, counted position by position."""

from __future__ import annotations

import pytest
import torch

from qkv.errors import SpecError
from qkv.testing import MASKS, make_keep
from qkv.testing.masks import WINDOW

RULES = {
    "full": lambda i, j, b, m: True,
    "causal": lambda i, j, b, m: j <= i,
    "window": lambda i, j, b, m: i - WINDOW < j <= i,
    "prefix": lambda i, j, b, m: j <= i or j < m // 3,
    "documents": lambda i, j, b, m: j <= i and (i + b) // 7 == (j + b) // 7,
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("align", ["start", "end"])
@pytest.mark.parametrize("lengths", [(9, 9), (4, 20), (20, 4), (1, 0)])
def test_rule(name: str, align: str, lengths: tuple[int, int]) -> None:
    n, m = lengths
    keep = make_keep(name, 2, n, m, align="end" if align == "end" else "start")
    assert keep.shape == (2, 1, n, m)
    first = m - n if align == "end" else 0
    expected = [[[RULES[name](i + first, j, b, m) for j in range(m)] for i in range(n)] for b in range(2)]
    assert keep[:, 0].tolist() == expected


def test_seeded_masks() -> None:
    assert torch.equal(make_keep("random", 2, 9, 9, seed=3), make_keep("random", 2, 9, 9, seed=3))
    assert not torch.equal(make_keep("random", 2, 9, 9, seed=3), make_keep("random", 2, 9, 9, seed=4))
    padding = make_keep("padding", 3, 4, 9, seed=1)[:, 0, 0].int()
    assert bool((padding.diff() <= 0).all())
    assert bool((padding.sum(-1) >= 1).all())


def test_dead_rows() -> None:
    alive = make_keep("dead rows", 2, 7, 3).any(-1)[:, 0]
    assert alive.tolist() == [[False] * 7, [False, True, True, False, True, True, False]]


@pytest.mark.parametrize("name", MASKS)
def test_no_keys(name: str) -> None:
    assert make_keep(name, 2, 3, 0).shape == (2, 1, 3, 0)


def test_message() -> None:
    with pytest.raises(SpecError, match=r'there is no mask "diagonal"\.\n    masks: full, causal'):
        make_keep("diagonal", 1, 1, 1)
