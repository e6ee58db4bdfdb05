"""Row statistics against the oracle: lse, largest logit, entropy and argmax, in every cut; and weights by
``reference``.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import qkv
from qkv.testing import OracleResult, Sizes, worst_lse_ratio
from qkv.testing.bounds import lse_tolerance
from tests.conftest import SEED
from tests.contract.blocking import small_blocks
from tests.contract.keeps import KEEPS
from tests.contract.problem import Problem
from tests.contract.refusals import left_out
from tests.contract.scores import SCORES
from tests.contract.weighings import WEIGHINGS

SIZES = Sizes(batch=2, query_heads=4, key_heads=2, query_length=19, key_length=33, feature_size=16, value_size=16)
WANT = ("lse", "max_logit", "entropy", "argmax")
SUMMED = [name for name in WEIGHINGS if not name.startswith(("linear", "sigmoid"))]
TERMS = [
    *({"keep": name} for name in KEEPS),
    *({"keep": "sinks", "score": name} for name in SCORES),
    *({"keep": "documents", "weights": name} for name in SUMMED),
]


def _check(problem: Problem, found: dict[str, Tensor], lse: Tensor, answer: OracleResult) -> None:
    """Each statistic within what the error of a logit does to it; exact where a row keeps nothing."""
    assert worst_lse_ratio(lse, answer) <= 1
    tolerance = lse_tolerance(answer, problem.dtype)
    dead = (answer.count == 0).expand(answer.max_logit.shape)
    for name, expected in (("max_logit", answer.max_logit), ("entropy", answer.entropy), ("argmax", answer.argmax)):
        assert found[name].shape == expected.shape == lse.shape
        assert found[name][dead].double().equal(expected[dead].double()), name
    error = (found["max_logit"].double() - answer.max_logit).abs()
    assert bool((error[~dead] <= tolerance.expand(error.shape)[~dead]).all())
    # -sum p ln p: an error of a logit moves p by as much of itself, and ln p by as much
    mass = answer.entropy + 1
    error = (found["entropy"].double() - answer.entropy).abs()
    assert bool((error[~dead] <= (4 * tolerance * mass)[~dead]).all()), error.max()
    _check_first(problem, found["argmax"], answer, tolerance)


def _check_first(problem: Problem, found: Tensor, answer: OracleResult, tolerance: Tensor) -> None:
    """The argmax, but for keys whose logits lie closer than the error of a logit."""
    different = found != answer.argmax
    if not bool(different.any()):
        return
    weights = problem.run("reference", want=("weights",)).stats["weights"]
    shape = (SIZES.batch, SIZES.query_heads, SIZES.query_length, SIZES.key_length)
    weights = weights.permute(0, 1, 3, 2, 4).reshape(shape)  # the scores' axes are b h i g j
    chosen, best = (weights.gather(-1, n[..., None]).squeeze(-1) for n in (found, answer.argmax))
    assert bool((chosen >= best * torch.exp(-2 * tolerance))[different].all())


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float64), ids=str)
@pytest.mark.parametrize("parts", TERMS, ids=lambda parts: "-".join(parts.values()))
def test_statistics(parts: dict[str, str], dtype: torch.dtype) -> None:
    for family in ("randn", "sharp", "extreme"):
        problem = Problem(SIZES, dtype=dtype, family=family, seed=SEED, **parts)  # type: ignore[arg-type]
        print(problem)
        answer = problem.answer()
        for strategy in ("reference", "chunked", "cpu"):
            if left_out(problem, strategy):
                continue
            result = problem.run(strategy, want=WANT)
            assert result.lse is not None
            assert set(result.stats) == {"max_logit", "entropy", "argmax"}
            _check(problem, result.stats, result.lse, answer)
        with small_blocks(5, 4):
            result = problem.run("chunked", want=WANT)
            assert result.lse is not None
            _check(problem, result.stats, result.lse, answer)


@pytest.mark.parametrize("parts", TERMS, ids=lambda parts: "-".join(parts.values()))
def test_weights(parts: dict[str, str]) -> None:
    """The weights themselves, over the coordinates of the scores: shared, query-only and key."""
    problem = Problem(SIZES, dtype=torch.float64, seed=SEED, **parts)  # type: ignore[arg-type]
    weights = problem.run("reference", want="weights").stats["weights"]  # type: ignore[arg-type]
    assert weights.shape == (2, 2, 19, 2, 33)
    expected = problem.answer().weights.unflatten(1, (2, 2)).transpose(2, 3)
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=1e-14)
    for strategy in ("chunked", "cpu", "sdpa", "linear"):
        with pytest.raises(qkv.Refused, match="it cannot return"):
            problem.run(strategy, want=("weights",))


@pytest.mark.parametrize("strategy", ("chunked", "cpu"))
def test_want_does_not_change_the_output(strategy: str) -> None:
    problem = Problem(SIZES, keep="sinks", seed=SEED)
    plain = problem.run(strategy).output
    for want in (("lse",), ("entropy",), ("argmax", "max_logit"), WANT):
        assert problem.run(strategy, want=want).output.equal(plain)


@pytest.mark.parametrize("strategy", ("chunked", "cpu"))
def test_entropy_of_large_scores(strategy: str) -> None:
    """Equal scores far from 0: the entropy is ln n exactly where a sum of large products would have no digit left."""
    q = torch.full((1, 1, 1, 1), 1e5)
    k, v = torch.ones(1, 1, 64, 1), torch.randn(1, 1, 64, 1)
    with qkv.strategy(strategy), small_blocks(1, 16):
        result = qkv.Spec().run(q, k, v, want=("entropy", "lse"))
    assert abs(float(result.stats["entropy"]) - 4.1588830833596715) < 1e-5


@pytest.mark.parametrize("strategy", ("reference", "chunked", "cpu"))
def test_the_first_of_equal_scores(strategy: str) -> None:
    """Ties go to the first key, in the order of the key coordinates, however blocks are cut."""
    q, k, v = torch.zeros(1, 3, 4), torch.randn(1, 3, 9, 4), torch.randn(1, 3, 9, 2)
    spec = qkv.Spec("b i d, b y x d, b y x e -> b i e", keep=qkv.keep(lambda y, x: (y > 0) | (x > 5)))
    with qkv.strategy(strategy), small_blocks(1, 2):
        assert (spec.run(q, k, v, want=("argmax",)).stats["argmax"] == 6).all()
        every = qkv.Spec(spec.pattern, keep=qkv.keep(lambda y, x: x > 100)).run(q, k, v, want=("argmax", "max_logit"))
    assert (every.stats["argmax"] == -1).all()
    assert (every.stats["max_logit"] == -torch.inf).all()


@pytest.mark.parametrize("strategy", ("reference", "chunked", "cpu"))
def test_a_kept_nan_is_the_largest(strategy: str) -> None:
    q, k, v = torch.randn(1, 1, 2, 4), torch.randn(1, 1, 9, 4), torch.randn(1, 1, 9, 2)
    k[0, 0, 4] = torch.nan
    with qkv.strategy(strategy), small_blocks(1, 2):
        stats = qkv.Spec().run(q, k, v, want=("argmax", "max_logit")).stats
    assert (stats["argmax"] == 4).all()
    assert stats["max_logit"].isnan().all()
