"""What a count refuses: tables shorter than what is counted, and lengths that would take minutes."""

from __future__ import annotations

import pytest
import torch

import qkv


@pytest.mark.parametrize("ask", ["count", "density", "picture"])
def test_a_table_shorter_than_the_keys_is_named(ask: str) -> None:
    short = qkv.padding(torch.ones(3, dtype=torch.bool), "j")
    with pytest.raises(qkv.SpecError) as caught:
        getattr(short, ask)(9)
    assert (
        str(caught.value)
        == 'mask<3> is read at 9 places of "j", and has 3.\n  Count or draw no more than the table has.'
    )
    assert short.count(9, 3) == 27


def test_ids_shorter_than_the_positions_are_named_and_a_draft_tree_is_not() -> None:
    ids = qkv.documents(torch.tensor([0, 0, 1]), "j")
    assert ids.count(3) == 5
    with pytest.raises(qkv.SpecError, match=r'^ids<3> is read at 4 places of "i", and has 3\.'):
        (qkv.causal() & ids).count(4, 3)
    assert qkv.tree([-1, 0]).count(2, 9) == 17  # the context before the draft is not in its table


def test_a_length_beyond_the_limit_is_refused() -> None:
    with pytest.raises(qkv.LimitError) as caught:
        qkv.causal().density(10**12)
    assert str(caught.value) == (
        "count of 1000000000000 queries and 1000000000000 keys: more than 134217728 of one.\n"
        "  Counting takes time in proportion to the longer side; count a shorter part."
    )
