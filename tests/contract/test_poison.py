"""What is not kept cannot influence any bit: NaN and infinities at unkept keys, forward and backward; rows that keep
nothing.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import qkv
from qkv.testing import Sizes
from qkv.testing.families import poison
from tests.conftest import SEED
from tests.contract.blocking import small_blocks
from tests.contract.derivatives import drawn, gradients
from tests.contract.keeps import KEEPS
from tests.contract.problem import Problem
from tests.contract.refusals import left_out
from tests.contract.scores import SCORES
from tests.contract.weighings import WEIGHINGS

# more queries than keys: causal masks then leave rows without a key; more keys than queries: keys that nobody keeps
SIZES = (
    Sizes(batch=2, query_heads=4, key_heads=2, query_length=9, key_length=21, feature_size=8, value_size=6),
    Sizes(batch=3, query_heads=3, key_heads=1, query_length=21, key_length=9, feature_size=8, value_size=8),
    Sizes(batch=2, query_heads=2, key_heads=2, query_length=2, key_length=15, feature_size=8, value_size=8),
)
MASKED = [name for name in KEEPS if name != "full"]
WAYS = ("reference", "chunked", "cpu", "chunked in small blocks")


def _blocks(way: str) -> AbstractContextManager[None]:
    return small_blocks() if way.endswith("small blocks") else nullcontext()


def _same(problem: Problem, way: str) -> None:
    """The poisoned problem and its clean twin have the same bits in output, lse and every gradient."""
    twin = replace(problem, family="randn")
    grad, grad_lse = drawn(twin, lse=twin.made_weights.kind in ("softmax", "differential"))
    strategy = way.split()[0]
    if left_out(problem, strategy):
        return
    with _blocks(way):
        found, clean = problem.run(strategy), twin.run(strategy)
        assert found.output.equal(clean.output), "output"
        slopes, expected = (gradients(p, strategy, grad, grad_lse) for p in (problem, twin))
    for name, slope in slopes.items():
        assert slope.equal(expected[name]), name


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("keep", MASKED)
def test_masks(keep: str, dtype: torch.dtype, way: str) -> None:
    poisoned = 0
    for number, sizes in enumerate(SIZES):
        problem = Problem(sizes, keep=keep, dtype=dtype, family="poison", seed=SEED + number)
        print(problem)
        poisoned += sum(not bool(x.isfinite().all()) for x in problem.operands)
        _same(problem, way)
    # these two keep every key for some row: test_a_key_that_some_rows_keep is theirs
    assert poisoned or keep in ("prefix", "bigbird"), "the mask left nothing to poison"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("keep", ("window", "dead rows"))
@pytest.mark.parametrize("score", SCORES)
def test_scores(score: str, keep: str, way: str) -> None:
    for number, sizes in enumerate(SIZES):
        _same(Problem(sizes, keep=keep, score=score, family="poison", seed=SEED + number), way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("keep", ("window", "documents"))
@pytest.mark.parametrize("weights", WEIGHINGS)
def test_weights(weights: str, keep: str, way: str) -> None:
    for number, sizes in enumerate(SIZES):
        _same(Problem(sizes, keep=keep, weights=weights, place="rope", family="poison", seed=SEED + number), way)


def test_linear_strategy_drops_padded_keys_and_refuses_poison_under_causal() -> None:
    """A mask of keys alone is applied before the state; under causal a later NaN would enter the state."""
    sizes = Sizes(batch=2, query_heads=2, key_heads=2, query_length=9, key_length=9, feature_size=8, value_size=8)
    problem = Problem(sizes, keep="causal", weights="linear", seed=SEED)
    q, k, v = (x.clone() for x in problem.operands)
    v[:, :, -1] = torch.nan
    with pytest.raises(qkv.Refused, match="k or v holds NaN or infinity"):
        problem.run("linear", operands=(q, k, v))
    assert problem.run("chunked", operands=(q, k, v)).output[:, :, :-1].isfinite().all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("keep", MASKED)
def test_a_key_that_some_rows_keep(keep: str, way: str) -> None:
    """NaN in one key reaches exactly the rows that keep it, and no bit of the others."""
    for number, sizes in enumerate(SIZES):
        problem = Problem(sizes, keep=keep, seed=SEED + number)
        case = poison(sizes, torch.float32, keep=problem.mask, seed=problem.seed, partial=True)
        shape = (sizes.batch, sizes.query_heads, sizes.query_length, sizes.key_length)
        assert problem.mask is not None
        bad = case.k.isnan().any(-1).repeat_interleave(sizes.query_heads // sizes.key_heads, 1)[:, :, None]
        reached = (problem.mask.expand(shape) & bad).any(-1)
        with _blocks(way):
            result = problem.run(way.split()[0], want=("lse",), operands=(case.q, case.k, case.v))
            clean = problem.run(way.split()[0], want=("lse",))
        assert result.lse is not None and clean.lse is not None
        assert result.output.isnan().all(-1).equal(reached), "rows that keep the key"
        assert result.lse.isnan().equal(reached)
        assert result.output[~reached].equal(clean.output[~reached]), "rows that do not"
        assert result.lse[~reached].equal(clean.lse[~reached])


@pytest.mark.parametrize("value", (torch.inf, -torch.inf, torch.nan))
@pytest.mark.parametrize("way", WAYS)
def test_values_that_are_not_finite_reach_as_arithmetic_says(way: str, value: float) -> None:
    """A kept infinity gives an infinity, a kept NaN gives NaN, in its own feature and in no other."""
    q, k, v = (torch.randn(1, 1, 6, 4) for _ in range(3))
    v[0, 0, 3, 1] = value
    with qkv.strategy(way.split()[0]), _blocks(way):
        output = qkv.attention(q, k, v, keep=qkv.causal())
    assert output[0, 0, :3].isfinite().all()
    expected = torch.full((3,), value)
    assert torch.equal(output[0, 0, 3:, 1], expected) or (expected.isnan() & output[0, 0, 3:, 1].isnan()).all()
    assert output[0, 0, 3:, [0, 2, 3]].isfinite().all()


def _of_lse(problem: Problem, strategy: str, dead: Tensor) -> tuple[Tensor, ...]:
    """The gradients of everything by the lse of rows that keep nothing."""
    leaves = {name: x.clone().requires_grad_() for name, x in problem.leaves.items()}
    q, k, v = (x.clone().requires_grad_() for x in problem.operands)
    lse = problem.run(strategy, want=("lse",), leaves=leaves, operands=(q, k, v)).lse
    assert lse is not None
    inputs = [q, k, v, *leaves.values()]
    return torch.autograd.grad(
        lse, inputs, dead.to(lse.dtype).expand(lse.shape), allow_unused=True, materialize_grads=True
    )


DEAD = Sizes(batch=2, query_heads=4, key_heads=2, query_length=10, key_length=12, feature_size=8, value_size=8)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("weights", WEIGHINGS)
@pytest.mark.parametrize("no_keys", (False, True))
def test_rows_that_keep_nothing(weights: str, way: str, no_keys: bool) -> None:
    """Output exactly 0, lse exactly -inf and gradients exactly 0, with sinks as without; and so with no keys at all."""
    sizes = replace(DEAD, key_length=0) if no_keys else DEAD
    problem = Problem(sizes, keep="dead rows", weights=weights, seed=SEED)
    has_lse = problem.made_weights.kind in ("softmax", "differential")
    grad, grad_lse = drawn(problem, lse=has_lse)
    strategy = way.split()[0]
    if left_out(problem, strategy):
        return
    assert problem.mask is not None
    dead = ~problem.mask.any(-1).expand(grad.shape[:-1])
    assert bool(dead.any())
    with _blocks(way):
        result = problem.run(strategy, want=("lse", "entropy") if has_lse else ())
        slopes = gradients(problem, strategy, grad, grad_lse)
        asked = None if grad_lse is None else torch.where(dead, grad_lse, 0.0)
        only_dead = gradients(problem, strategy, torch.where(dead[..., None], grad, 0.0), asked)
    assert (result.output[dead] == 0).all()
    if result.lse is not None:
        assert (result.lse[..., dead] == -torch.inf).all()
        assert all((slope == 0).all() for slope in _of_lse(problem, strategy, dead))
        assert (result.stats["entropy"][..., dead] == 0).all()
    assert (slopes["q"][dead] == 0).all()
    assert all(slope.isfinite().all() for slope in slopes.values())
    for slope in only_dead.values():
        assert (slope == 0).all(), "what only dead rows ask for has no gradient"
