"""The fixed meanings of DESIGN.md section 4, each with numbers worked out by hand, in every strategy that runs them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import qkv

STRATEGIES = ("reference", "chunked")
both = pytest.mark.parametrize("strategy", STRATEGIES)


def _kept(keep: qkv.Keep, strategy: str, queries: int = 5, keys: int = 5, **options: object) -> Tensor:
    """Which keys a mask keeps, seen from outside: equal logits, one-hot values."""
    q, k, v = torch.zeros(queries, 1), torch.randn(keys, 1), torch.eye(keys)
    with qkv.strategy(strategy):
        return qkv.attention(q, k, v, "i d, j d, j e -> i e", keep=keep, **options) > 0  # type: ignore[arg-type]


def _rows(*rows: str) -> Tensor:
    return torch.tensor([[letter == "x" for letter in row] for row in rows])


@both
def test_a_mask_says_what_is_kept(strategy: str) -> None:
    mask = torch.tensor([True, False, True, False, False])
    assert _kept(qkv.padding(mask, "j"), strategy).equal(mask.expand(5, 5))


@both
def test_window(strategy: str) -> None:
    """``window(w)``: w keys, the query's own included. ``window(left, right)`` counts neighbours on each side."""
    assert _kept(qkv.window(1), strategy).equal(torch.eye(5).bool())
    assert _kept(qkv.window(3), strategy).equal(_rows("x....", "xx...", "xxx..", ".xxx.", "..xxx"))
    assert _kept(qkv.window(1, 2), strategy).equal(_rows("xxx..", "xxxx.", ".xxxx", "..xxx", "...xx"))
    assert _kept(qkv.window(0, 0), strategy).equal(torch.eye(5).bool())


@both
def test_the_other_masks(strategy: str) -> None:
    assert _kept(qkv.causal(), strategy).equal(_rows("x....", "xx...", "xxx..", "xxxx.", "xxxxx"))
    assert _kept(qkv.causal() | qkv.prefix(3), strategy).equal(_rows("xxx..", "xxx..", "xxx..", "xxxx.", "xxxxx"))
    assert _kept(qkv.prefix(2), strategy).equal(_rows("xx...", "xx...", ".....", ".....", "....."))
    assert _kept(qkv.first(2), strategy).equal(_rows(*["xx..."] * 5))
    assert _kept(qkv.dilated(2), strategy).equal(_rows("x.x.x", ".x.x.", "x.x.x", ".x.x.", "x.x.x"))
    ids = torch.tensor([0, 0, 1, 1, 0])
    assert _kept(qkv.documents(ids, "j"), strategy).equal(_rows("xx..x", "xx..x", "..xx.", "..xx.", "xx..x"))
    assert _kept(~qkv.causal(), strategy).equal(_rows(".xxxx", "..xxx", "...xx", "....x", "....."))
    table = torch.tensor([[True, False, True], [False, True, False], [True, True, True]])
    assert _kept(qkv.blocks(table, 2), strategy).equal(_rows("xx..x", "xx..x", "..xx.", "..xx.", "xxxxx"))
    tree = qkv.tree([-1, 0, 0, 2])  # a context of one key, then the draft
    assert tree.depths == (0, 1, 1, 2)
    assert _kept(tree, strategy, queries=4).equal(_rows("xx...", "xxx..", "xx.x.", "xx.xx"))


@both
def test_bigbird(strategy: str) -> None:
    """A window of blocks, global blocks as keys and as queries, and random ones: one for each query block, the same in
    every call, not the same for all.
    """
    near = _kept(qkv.bigbird(window=1, num_global=0, num_random=0), strategy)
    assert near.equal(_rows("xx...", "xxx..", ".xxx.", "..xxx", "...xx"))
    everywhere = _kept(qkv.bigbird(window=0, num_global=1, num_random=0), strategy)
    assert everywhere.equal(_rows("xxxxx", "xx...", "x.x..", "x..x.", "x...x"))
    drawn = _kept(qkv.bigbird(window=0, num_global=0, num_random=1, block_size=2, seed=7), strategy, 40, 40)
    blocks = drawn.unflatten(0, (20, 2)).unflatten(2, (20, 2))[:, 0, :, 0]
    assert blocks.repeat_interleave(2, 0).repeat_interleave(2, 1).equal(drawn)
    random = blocks & ~torch.eye(20).bool()
    assert (random.sum(1) <= 1).all()
    assert int(random.any(0).sum()) >= 8, "random blocks must differ between query blocks"
    other = _kept(qkv.bigbird(window=0, num_global=0, num_random=1, block_size=2, seed=8), strategy, 40, 40)
    assert not drawn.equal(other)


@both
def test_causal_compares_positions_and_not_corners(strategy: str) -> None:
    assert _kept(qkv.causal(), strategy, 2, 4, align="end").equal(_rows("xxx.", "xxxx"))
    assert _kept(qkv.causal(), strategy, 2, 4, align="start").equal(_rows("x...", "xx.."))
    assert _kept(qkv.causal(), strategy, 2, 4, positions={"i": 1}).equal(_rows("xx..", "xxx."))
    assert _kept(qkv.causal(), strategy, 4, 2, align="end").equal(_rows("..", "..", "x.", "xx"))
    with pytest.raises(qkv.PositionError, match="nothing says where the queries stand"):
        _kept(qkv.causal(), strategy, 2, 4)


@both
def test_a_row_that_keeps_nothing(strategy: str) -> None:
    q, k, v = (torch.randn(1, 1, 3, 4, requires_grad=True) for _ in range(3))
    spec = qkv.Spec(keep=qkv.keep(lambda i, j: (j < 2) & (i > 0)))
    with qkv.strategy(strategy):
        result = spec.run(q, k, v, want=("lse",))
    assert (result.output[0, 0, 0] == 0).all()
    assert result.lse is not None
    assert result.lse[0, 0, 0] == -math.inf
    slopes = torch.autograd.grad(result.output.sum(), [q, k, v])
    assert (slopes[0][0, 0, 0] == 0).all()
    assert all((slope[0, 0, 2] == 0).all() for slope in slopes[1:]), "no row keeps the last key"


@both
def test_a_key_that_is_not_kept_cannot_influence_any_bit(strategy: str) -> None:
    q, k, v = (torch.randn(1, 1, 4, 4) for _ in range(3))
    with qkv.strategy(strategy):
        clean = qkv.attention(q, k, v, keep=qkv.causal())
        k[0, 0, 3], v[0, 0, 3] = torch.nan, torch.inf
        assert qkv.attention(q, k, v, keep=qkv.causal())[0, 0, :3].equal(clean[0, 0, :3])


@both
def test_the_default_scale(strategy: str) -> None:
    """1/sqrt(size of the feature coordinate); of all of them where there are several; of one half for two maps."""
    q, k, v = torch.randn(3, 2, 8), torch.randn(5, 2, 8), torch.randn(5, 4)
    with qkv.strategy(strategy):
        several = qkv.attention(q, k, v, "i c d, j c d, j e -> i e")
        flat = qkv.attention(q.flatten(1), k.flatten(1), v, "i d, j d, j e -> i e", scale=16**-0.5)
        torch.testing.assert_close(several, flat)
        halves = qkv.attention(q[:, 0], k[:, 0], v, "i d, j d, j e -> i e", weights=qkv.differential(0.5))
        apart = [
            qkv.attention(q[:, 0, part], k[:, 0, part], v, "i d, j d, j e -> i e", scale=0.5)
            for part in (slice(0, 4), slice(4, 8))
        ]
    torch.testing.assert_close(halves, apart[0] - 0.5 * apart[1])


@both
def test_lse_is_a_natural_logarithm_and_includes_sinks(strategy: str) -> None:
    q, k, v = torch.zeros(1, 4), torch.zeros(8, 4), torch.zeros(8, 2)
    pattern = "i d, j d, j e -> i e"
    cases = [(None, 8.0), (qkv.softmax(sink=math.log(2.0)), 10.0), (qkv.softmax(off_by_one=True), 9.0)]
    for weights, total in cases:
        with qkv.strategy(strategy):
            lse = qkv.Spec(pattern, weights=weights).run(q, k, v, want=("lse",)).lse
        assert lse is not None
        assert float(lse) == pytest.approx(math.log(total), rel=1e-6)


@both
def test_a_sink_takes_weight_and_carries_no_value(strategy: str) -> None:
    q, k, v = torch.zeros(1, 4), torch.zeros(3, 4), torch.ones(3, 1)
    with qkv.strategy(strategy):
        out = qkv.attention(q, k, v, "i d, j d, j e -> i e", weights=qkv.softmax(sink=math.log(5.0)))
    assert float(out) == pytest.approx(3 / 8)


@both
def test_rope_pairings(strategy: str) -> None:
    """``interleaved=False`` turns feature k with k + size / 2, as transformers' checkpoints; True the original's 2k,
    2k + 1.
    """
    q, k, v = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.eye(4), torch.eye(4)
    pattern = "i d, j d, j e -> i e"
    angle = 3.0  # position 3, the first pair's frequency 1
    for interleaved, partner in ((False, 2), (True, 1)):
        spec = qkv.Spec(pattern, position=qkv.rope(interleaved=interleaved), scale=1.0, weights=qkv.sigmoid())
        with qkv.strategy(strategy):
            turned = spec(q, k, v, positions={"i": 3, "j": torch.zeros(4, dtype=torch.int64)})
        logits = torch.logit(turned[0])
        expected = torch.zeros(4)
        expected[0], expected[partner] = math.cos(angle), math.sin(angle)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@both
def test_differential_forms(strategy: str) -> None:
    """Paper: each head over its root mean square, times 1 - lambda_init. Clamp: negatives to 0, rows rescaled."""
    first, second = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.2, 0.2, 0.6])
    q = torch.ones(1, 2, 1)
    k = torch.stack([first.log(), second.log()], 1)[..., None]  # logits are logarithms of the two maps
    v = torch.eye(3)
    pattern = "i c d, j c d, j e -> i e"

    def run(weights: qkv.terms.weights.Weights) -> Tensor:
        with qkv.strategy(strategy):
            return qkv.attention(q, k, v, pattern, weights=weights, scale=1.0)[0]

    difference = first - 0.5 * second
    torch.testing.assert_close(run(qkv.differential(0.5, branch="c")), difference)
    paper = difference / (difference.square().mean() + 1e-5).sqrt() * (1 - 0.8)
    torch.testing.assert_close(run(qkv.differential(0.5, branch="c", lambda_init=0.8)), paper)
    positive = difference.clamp(min=0)
    torch.testing.assert_close(run(qkv.differential(0.5, branch="c", renormalize="clamp")), positive / positive.sum())


@both
def test_score_terms_apply_in_order_after_the_scale(strategy: str) -> None:
    q, k, v = torch.full((1, 1), 3.0), torch.tensor([[2.0]]), torch.ones(1, 1)
    spec = qkv.Spec(
        "i d, j d, j e -> i e",
        scale=0.5,
        score=(qkv.softcap(2.0), qkv.score(lambda score: score + 1.0), qkv.bias(torch.tensor([4.0]), "j")),
        weights=qkv.sigmoid(),
    )
    with qkv.strategy(strategy):
        logit = torch.logit(spec(q, k, v))
    assert float(logit) == pytest.approx(2 * math.tanh(3 * 2 * 0.5 / 2) + 1 + 4, rel=1e-3)


@both
def test_a_size_of_one_is_a_size_like_any_other(strategy: str) -> None:
    """Nothing broadcasts because it is 1, only because a pattern leaves it out."""
    q, k = torch.randn(2, 3, 4, 8), torch.randn(1, 3, 4, 8)
    with qkv.strategy(strategy):
        with pytest.raises(qkv.SizeMismatch, match="A size of 1 does not spread"):
            qkv.attention(q, k, k)
        shared = qkv.attention(q, k[0], k[0], "b h i d, h j d, h j e -> b h i e")
        torch.testing.assert_close(shared, qkv.attention(q, k.expand_as(q), k.expand_as(q)))
