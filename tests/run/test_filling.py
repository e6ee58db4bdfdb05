"""Definitions whose tensors fill openings: the second call goes straight to the core, and is the same call."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import qkv
from qkv.run import call
from qkv.terms.expr import Captured, Opening, Position, Score, apply, look_up
from qkv.terms.score import CustomScore

HEAD = "fn f[h, q, k, d](Q: [f32; h, q, d], K: [f32; h, k, d], V: [f32; h, k, d], {given}) -> [f32; h, q, d] {{\n"
SCORE = "sum[d](Q[h, q, d] * K[h, k, d]) / size[d] ** 0.5"


def _drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _whole(seed: int, below: int, *shape: int) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


Q, K, V = _drawn(0, 3, 9, 8), _drawn(1, 3, 9, 8), _drawn(2, 3, 9, 8)


def _bias(x: Tensor) -> Tensor:
    return Q @ K.mT / 8**0.5 + x


def _masked(x: Tensor) -> Tensor:
    return (Q @ K.mT / 8**0.5).masked_fill(~x, -torch.inf)


def _documents(x: tuple[Tensor, Tensor]) -> Tensor:
    return _masked(x[0][:, None] == x[1])


def _by_distance(x: Tensor) -> Tensor:
    return _bias(x[:, torch.arange(9)[:, None] - torch.arange(9) + 8])


def _kept(seed: int) -> Tensor:
    return (_drawn(seed, 9, 9) > 0) | torch.eye(9, dtype=torch.bool)


DEFINITIONS = {
    "a bias": ("B: [f32; h, q, k]", SCORE + " + B[h, q, k]", _bias, lambda s: _drawn(s, 3, 9, 9)),
    "a bias of 16 bits": (
        "B: [bf16; h, q, k]", SCORE + " + (B[h, q, k] as f32)", lambda x: _bias(x.float()),
        lambda s: _drawn(s, 3, 9, 9).bfloat16(),
    ),
    "a mask": ("M: [bool; q, k]", f"if M[q, k] {{ {SCORE} }} else {{ -inf }}", _masked, _kept),
    "documents": (
        "D: [i64; q], E: [i64; k]", f"if D[q] == E[k] {{ {SCORE} }} else {{ -inf }}", _documents,
        lambda s: (_whole(s, 3, 9), _whole(s, 3, 9)),
    ),
    "a table by distance": (
        "T: [f32; h, n]", SCORE + " + T[h, q - k + 8]", _by_distance, lambda s: _drawn(s, 3, 17)
    ),
}  # fmt: skip


def _made(name: str):
    given, score, scores, draw = DEFINITIONS[name]
    head = HEAD.replace("d](", "d, n](") if "n]" in given else HEAD
    text = head.format(given=given) + f"    sum[k](softmax[k]({score}) * V[h, k, d])\n}}\n"
    return qkv.ein.source(text).f, scores, draw


def _expected(scores: Tensor) -> Tensor:
    return scores.softmax(-1) @ V


@pytest.mark.parametrize("name", DEFINITIONS)
def test_other_fillings_and_changed_ones_are_read(name: str, general: list[qkv.Spec]) -> None:
    f, scores, draw = _made(name)
    for seed in (3, 4, 5):
        x = draw(seed)
        given = x if isinstance(x, tuple) else (x,)
        torch.testing.assert_close(f(Q, K, V, *given), _expected(scores(x)))
        other = draw(seed + 10)
        for held, values in zip(given, other if isinstance(other, tuple) else (other,), strict=True):
            held.copy_(values)  # where it lies, it now holds other values
        torch.testing.assert_close(f(Q, K, V, *given), _expected(scores(x)))
    assert len(general) == 1


def test_shapes_strides_and_types_are_calls_of_their_own(general: list[qkv.Spec]) -> None:
    f, scores, draw = _made("a bias")
    x = draw(3)
    turned = x.mT.contiguous().mT
    shared = x[:1].expand(3, 9, 9)
    for each in (x, turned, shared, x, turned, shared):
        torch.testing.assert_close(f(Q, K, V, each), _expected(scores(each)))
    assert len(general) == 3


def test_a_gradient_that_is_wanted_of_a_filling_is_recorded(general: list[qkv.Spec]) -> None:
    f, scores, draw = _made("a bias")
    x = draw(3)
    plain = f(Q, K, V, x)
    assert f(Q, K, V, x).equal(plain)
    assert len(general) == 1
    x.requires_grad_()
    learning = f(Q, K, V, x)
    assert learning.equal(plain)
    (found,) = torch.autograd.grad(learning.square().sum(), x)
    (expected,) = torch.autograd.grad(_expected(scores(x)).square().sum(), x)
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        assert f(Q, K, V, x).equal(plain)


def test_a_lookup_at_the_callers_places_is_looked_at_in_every_call(general: list[qkv.Spec]) -> None:
    table, at = _drawn(3, 7), _whole(4, 7, 9)
    values, places = (Opening(x.clone(), "") for x in (table, at))

    read = look_up(values, (look_up(places, (Position("j"),)),))
    spec = qkv.Spec("h i d, h j d, h j e -> h i e", score=CustomScore((), apply("add", Score(), read)))
    filling: dict[Captured, Tensor] = {values: table, places: at}
    given = tuple(filling[x] for x in spec.openings)
    for _ in range(2):
        torch.testing.assert_close(call.door.filled(spec, Q, K, V, {}, given), _expected(_bias(table[at])))
    at[5] = 7
    with pytest.raises(qkv.QkvError, match="outside"):
        call.door.filled(spec, Q, K, V, {}, given)
    assert len(general) == 3


def test_a_filling_lives_no_longer_than_its_call(general: list[qkv.Spec]) -> None:
    import gc
    import weakref

    f, _, draw = _made("a mask")
    x = draw(3)
    assert f(Q, K, V, x).equal(f(Q, K, V, x))
    gone = weakref.ref(x)
    del x
    gc.collect()
    assert gone() is None
