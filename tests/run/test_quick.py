"""Calls that are known go straight to the core, and are the same calls."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import qkv

GROUPED = "b (h g) i d, b h j d, b h j e -> b (h g) i e"


def _drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


Q, K, V = _drawn(0, 2, 6, 9, 8), _drawn(1, 2, 3, 9, 8), _drawn(2, 2, 3, 9, 4)


def _reading() -> dict[str, tuple[Callable[[Tensor], qkv.Spec], Tensor]]:
    """Specs that capture a tensor, and the tensor."""
    ids = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    return {
        "slopes": (lambda x: qkv.Spec(GROUPED, score=qkv.alibi(x)), _drawn(3, 6).abs()),
        "a bias by distance": (lambda x: qkv.Spec(GROUPED, score=qkv.relative_bias(x)), _drawn(4, 32, 6)),
        "a bias of all pairs": (lambda x: qkv.Spec(GROUPED, score=qkv.bias(x, "i j")), _drawn(5, 9, 9)),
        "documents": (lambda x: qkv.Spec(GROUPED, keep=qkv.causal() & qkv.documents(x, "j")), ids),
        "sinks": (lambda x: qkv.Spec(GROUPED, weights=qkv.softmax(sink=x)), _drawn(6, 6)),
        "a lambda": (
            lambda x: qkv.Spec(GROUPED, score=qkv.score(lambda score, i, j: score + x[i] * x[j])),
            _drawn(7, 9),
        ),
    }


@pytest.mark.parametrize("name", _reading())
def test_a_call_that_reads_a_tensor_is_known_until_the_tensor_changes(name: str, general: list[qkv.Spec]) -> None:
    make, table = _reading()[name]
    spec = make(table)
    first = spec(Q, K, V)
    assert spec(Q, K, V).equal(first)
    assert len(general) == 1
    table.copy_(table.roll(1, 0))
    changed = spec(Q, K, V)
    assert len(general) == 2
    assert not changed.allclose(first)
    assert changed.equal(make(table.clone())(Q, K, V))
    assert spec(Q, K, V).equal(changed)
    assert len(general) == 3  # of the spec made to compare


def test_gradients_of_what_is_read_are_recorded_where_they_are_wanted(general: list[qkv.Spec]) -> None:
    slopes = _drawn(3, 6).abs().requires_grad_()
    spec = qkv.Spec("b h i d, b h j d, b h j e -> b h i e", score=qkv.alibi(slopes))
    k, v = K.repeat_interleave(2, 1), V.repeat_interleave(2, 1)
    with torch.no_grad():
        plain = spec(Q, k, v)
        assert spec(Q, k, v).equal(plain)
    assert len(general) == 1
    learning = spec(Q, k, v)
    assert learning.requires_grad
    (found,) = torch.autograd.grad(learning.sum(), slopes)
    assert found.abs().sum() > 0
    assert learning.equal(plain)


def test_what_is_remembered_lives_no_longer_than_its_spec(general: list[qkv.Spec]) -> None:
    table = _drawn(5, 9, 9)
    spec = qkv.Spec(GROUPED, score=qkv.bias(table, "i j"))
    assert spec(Q, K, V).equal(spec(Q, K, V))
    assert len(general) == 1
    gone = weakref.ref(table)
    general.clear()
    del spec, table
    gc.collect()
    assert gone() is None


def test_tensors_that_do_not_count_their_changes_are_read_anew(general: list[qkv.Spec]) -> None:
    with torch.inference_mode():
        table = _drawn(5, 9, 9)
        spec = qkv.Spec(GROUPED, score=qkv.bias(table, "i j"))
        first = spec(Q, K, V)
        table.neg_()
        assert not spec(Q, K, V).allclose(first)
    assert len(general) == 2


def test_alignments_are_calls_of_their_own(general: list[qkv.Spec]) -> None:
    spec = qkv.Spec(GROUPED, keep=qkv.causal())
    few = Q[:, :, :4]
    start, end = spec(few, K, V, align="start"), spec(few, K, V, align="end")
    assert not start.allclose(end)
    assert spec(few, K, V, align="start").equal(start)
    assert spec(few, K, V, align="end", dropout=0.0, seed=None).equal(end)
    assert len(general) == 2
    with pytest.raises(qkv.PositionError, match="middle"):
        spec(few, K, V, align="middle")
    with pytest.raises(qkv.PositionError, match="align"):
        spec(few, K, V)


def test_first_positions_are_calls_of_their_own(general: list[qkv.Spec]) -> None:
    spec = qkv.Spec(GROUPED, keep=qkv.causal())
    few = Q[:, :, :4]
    third, fifth = spec(few, K, V, positions={"i": 3}), spec(few, K, V, positions={"i": 5, "j": 0})
    assert not third.allclose(fifth)
    assert spec(few, K, V, positions={"i": 3}).equal(third)
    assert spec(few, K, V, positions={"i": 5, "j": 0}, align=None).equal(fifth)
    assert len(general) == 2
    with pytest.raises(qkv.QkvError):
        spec(few, K, V, positions={"i": True})
    spec(few, K, V, positions={"i": torch.tensor([3, 4, 5, 6])})
    spec(few, K, V, positions={"i": torch.tensor([3, 4, 5, 6])})
    assert len(general) == 5


OTHERS = [{"seed": 3}, {"sizes": {"g": 2}}, {"dropout": 0.5}, {"sizes": {"g": 2}, "align": "end"}]


@pytest.mark.parametrize("options", OTHERS)
def test_other_options_take_the_general_way(options: dict[str, object], general: list[qkv.Spec]) -> None:
    spec = qkv.Spec(GROUPED, keep=qkv.causal())
    spec(Q, K, V, **options)
    spec(Q, K, V, **options)
    assert len(general) == 2
