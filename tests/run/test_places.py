"""Where queries and keys stand: every form of positions= and align=, beside a mask written out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import qkv


def _drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


Q, K, V = _drawn(0, 2, 2, 3, 4), _drawn(1, 2, 2, 5, 4), _drawn(2, 2, 2, 5, 4)
CAUSAL = qkv.Spec(keep=qkv.causal())
KEYS = torch.arange(5)


def _masked(queries: Tensor, keys: Tensor = KEYS) -> Tensor:
    """Causal attention by torch, for positions ``[..., i]`` and ``[..., j]``; a row that keeps nothing is 0."""
    keep = queries[..., :, None] >= keys[..., None, :]
    out = torch.nn.functional.scaled_dot_product_attention(Q, K, V, attn_mask=keep)
    return torch.where(keep.any(-1, keepdim=True), out, 0.0)


EACH = torch.tensor([[0, 4, 2], [1, 3, 0]])
FORMS: dict[str, tuple[object, Tensor]] = {
    "the first": (2, torch.tensor([2, 3, 4])),
    "a negative first": (-2, torch.tensor([-2, -1, 0])),
    "beyond the keys": (9, torch.tensor([9, 10, 11])),
    "a tensor": (torch.tensor([4, 0, 2]), torch.tensor([4, 0, 2])),
    "int32": (torch.tensor([4, 0, 2], dtype=torch.int32), torch.tensor([4, 0, 2])),
    "uint8": (torch.tensor([4, 0, 2], dtype=torch.uint8), torch.tensor([4, 0, 2])),
    "strided": (torch.tensor([4, 9, 0, 9, 2, 9])[::2], torch.tensor([4, 0, 2])),
    "with its own pattern": ((torch.tensor([4, 0, 2]), "i"), torch.tensor([4, 0, 2])),
    "by batch": ((EACH, "b i"), EACH[:, None]),
    "by batch, last": ((EACH.T, "i b"), EACH[:, None]),
    "by head": ((EACH, "h i"), EACH[None]),
    "by batch and head": ((torch.stack([EACH, EACH + 1]), "b h i"), torch.stack([EACH, EACH + 1])),
}


@pytest.mark.parametrize("strategy", ("reference", "chunked"))
@pytest.mark.parametrize("form", FORMS)
def test_queries(form: str, strategy: str) -> None:
    given, queries = FORMS[form]
    with qkv.strategy(strategy):
        torch.testing.assert_close(CAUSAL(Q, K, V, positions={"i": given}), _masked(queries))


def test_keys() -> None:
    keys = torch.tensor([[3, 1, 0, 2, 7], [9, 9, 0, 0, 1]])
    out = CAUSAL(Q, K, V, positions={"i": 1, "j": (keys, "b j")})
    torch.testing.assert_close(out, _masked(torch.tensor([1, 2, 3]), keys[:, None]))
    torch.testing.assert_close(CAUSAL(Q, K, V, positions={"i": 4, "j": 3}), _masked(torch.arange(1, 4)))


def test_align() -> None:
    torch.testing.assert_close(CAUSAL(Q, K, V, align="start"), _masked(torch.arange(3)))
    torch.testing.assert_close(CAUSAL(Q, K, V, align="end"), _masked(torch.arange(2, 5)))


def test_align_with_more_queries_than_keys() -> None:
    out = CAUSAL(K, Q, Q, align="end")
    assert out[:, :, :2].eq(0).all()
    torch.testing.assert_close(out[:, :, 2:], CAUSAL(K[:, :, 2:], Q, Q))


def test_equal_lengths_stand_together_whatever_align_says() -> None:
    plain = CAUSAL(K, K, V)
    assert CAUSAL(K, K, V, align="start").equal(plain)
    assert CAUSAL(K, K, V, align="end").equal(plain)


def test_where_nothing_compares_positions_nothing_need_be_said() -> None:
    plain = qkv.Spec()(Q, K, V)
    assert qkv.Spec()(Q, K, V, align="end").equal(plain)
    torch.testing.assert_close(qkv.Spec()(Q, K, V, positions={"i": 7, "j": KEYS}), plain)


def test_a_call_remembers_no_position() -> None:
    spec = qkv.Spec(keep=qkv.causal())
    for first in (0, 2, 1):
        torch.testing.assert_close(spec(Q, K, V, positions={"i": first}), _masked(torch.arange(first, first + 3)))


def test_a_lookup_by_index_does_not_move() -> None:
    bias = _drawn(3, 3, 5)
    spec = qkv.Spec(score=qkv.bias(bias, "i j"))
    assert spec(Q, K, V).equal(spec(Q, K, V, positions={"i": 100, "j": 3}))


def test_rotations_follow_positions() -> None:
    spec = qkv.Spec(position=qkv.rope())
    whole = qkv.Spec(position=qkv.rope())(K, K, V)
    moved = spec(K[:, :, 2:], K, V, positions={"i": 2})
    torch.testing.assert_close(moved, whole[:, :, 2:])
    torch.testing.assert_close(spec(K, K, V, positions={"i": 50, "j": 50}), whole, atol=1e-5, rtol=1e-4)
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = spec(K[:, :, order], K[:, :, order], V[:, :, order], positions={"i": order, "j": order})
    torch.testing.assert_close(shuffled, whole[:, :, order])


def test_rests_and_groups() -> None:
    rest = qkv.Spec("..b i d, ..b j d, ..b j e -> ..b i e", keep=qkv.causal())
    torch.testing.assert_close(rest(Q, K, V, positions={"i": 1}), _masked(torch.arange(1, 4)))
    grouped = qkv.Spec("b (h g) i d, b h j d, b h j e -> b (h g) i e", keep=qkv.causal())
    out = grouped(Q, K[:, :1], V[:, :1], positions={"i": (EACH, "b i")})
    repeated = CAUSAL(Q, K[:, :1].expand_as(K), V[:, :1].expand_as(V), positions={"i": (EACH, "b i")})
    torch.testing.assert_close(out, repeated)
    out = grouped(Q, K[:, :1], V[:, :1], positions={"i": (EACH, "g i")})
    torch.testing.assert_close(
        out, CAUSAL(Q, K[:, :1].expand_as(K), V[:, :1].expand_as(V), positions={"i": (EACH, "h i")})
    )


WRONG: dict[str, tuple[object, type[qkv.QkvError], str]] = {
    "a text": ("a", qkv.PositionError, "positions[\"i\"] is 'a'."),
    "a fraction": (1.0, qkv.PositionError, 'positions["i"] is 1.0.'),
    "a truth": (True, qkv.PositionError, 'positions["i"] is True.'),
    "nothing": (None, qkv.PositionError, 'positions["i"] is None.'),
    "truths": (torch.ones(3).bool(), qkv.DtypeError, 'positions["i"] are torch.bool.'),
    "an axis too many": (
        torch.zeros(2, 3).long(),
        qkv.ShapeError,
        'positions["i"] have the shape (2, 3); the pattern "i" means i=3.',
    ),
    "an axis too few": (
        (torch.zeros(3).long(), "b i"),
        qkv.ShapeError,
        'positions["i"] have the shape (3,); the pattern "b i" means b=2 i=3.',
    ),
    "another order": (
        (torch.zeros(3, 2).long(), "b i"),
        qkv.ShapeError,
        'positions["i"] have the shape (3, 2); the pattern "b i" means b=2 i=3.',
    ),
    "without itself": (
        (torch.zeros(5).long(), "j"),
        qkv.ShapeError,
        'positions["i"] have the shape (5,); the pattern "j" means j=5.',
    ),
    "a feature": (
        (torch.zeros(3, 4).long(), "i d"),
        qkv.ShapeError,
        'positions["i"] have the shape (3, 4); the pattern "i d" means i=3 d=4.',
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_position(case: str) -> None:
    value, kind, headline = WRONG[case]
    with pytest.raises(kind) as caught:
        CAUSAL(Q, K, V, positions={"i": value})
    first, *advice = str(caught.value).split("\n")
    assert (type(caught.value), first, len(advice)) == (kind, headline, 1)
    assert advice[0].startswith("  ")


@pytest.mark.parametrize(
    "spec",
    [
        qkv.Spec(keep=qkv.window(2)),
        qkv.Spec(score=qkv.alibi()),
        qkv.Spec(position=qkv.rope()),
        qkv.Spec(keep=qkv.causal(), weights=qkv.linear()),
        qkv.Spec(score=qkv.score(lambda score, i, j: score - (i - j))),
    ],
    ids=repr,
)
def test_every_part_that_compares_positions_asks_where_queries_stand(spec: qkv.Spec) -> None:
    calls: list[Callable[..., object]] = [spec, spec.run]
    for call in calls:
        with pytest.raises(qkv.PositionError, match=r"^nothing says where the queries stand among the keys"):
            call(Q, K, V)
    assert spec(Q, K, V, align="end").shape == Q.shape
