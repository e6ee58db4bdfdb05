"""What must not change the answer, bit for bit where the arithmetic is the same, within the bound where it is not."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import qkv
from qkv.testing import LAYOUTS, Sizes, fits, lay_out, oracle, worst_lse_ratio, worst_ratio
from tests.conftest import SEED
from tests.contract.blocking import small_blocks
from tests.contract.judge import check, compare
from tests.contract.keeps import KEEPS
from tests.contract.problem import PATTERN, Problem
from tests.contract.refusals import expected, left_out
from tests.contract.scores import SCORES
from tests.contract.weighings import WEIGHINGS

SIZES = Sizes(batch=3, query_heads=4, key_heads=2, query_length=24, key_length=24, feature_size=16, value_size=16)
STRATEGIES = ("reference", "chunked", "cpu", "sdpa", "linear")


def _of(strategy: str, **parts: str) -> Problem:
    """A problem that the strategy runs."""
    weights = "linear" if strategy == "linear" else "softmax"
    problem = Problem(SIZES, **{"weights": weights, "seed": SEED, **parts})  # type: ignore[arg-type]
    assert not expected(problem, strategy)
    return problem


def _drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(SEED + 3))


@pytest.mark.parametrize("strategy", ("reference", "chunked", "cpu", "linear"))
def test_keys_permuted_with_their_mask(strategy: str) -> None:
    problem = _of(strategy, keep="padding")
    q, k, v = problem.operands
    assert problem.mask is not None
    order = torch.randperm(24, generator=torch.Generator().manual_seed(SEED))
    spec = qkv.Spec(PATTERN, keep=qkv.padding(problem.mask[:, 0, 0][:, order], "b j"), weights=problem.spec().weights)
    with qkv.strategy(strategy):
        moved = spec(q, k[:, :, order], v[:, :, order])
    assert worst_ratio(moved, problem.answer()) <= 1


@pytest.mark.parametrize("keep", ("full", "causal"))
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_batch_permuted(strategy: str, keep: str) -> None:
    problem = _of(strategy, keep=keep)
    order = [2, 0, 1]
    moved = problem.run(strategy, operands=tuple(x[order] for x in problem.operands)).output  # type: ignore[arg-type]
    assert moved.equal(problem.run(strategy).output[order])


@pytest.mark.parametrize("value", (1e4, torch.nan, torch.inf), ids=str)
@pytest.mark.parametrize("keep", ("full", "causal"))
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_neighbours_in_the_batch_changed(strategy: str, keep: str, value: float) -> None:
    """Whatever stands in the other entries of the batch, NaN included, an entry keeps its bits."""
    problem = _of(strategy, keep=keep)
    q, k, v = (x.clone() for x in problem.operands)
    for x in (q, k, v):
        x[[0, 2], :, ::2] = value
    if strategy in ("sdpa", "linear") and keep == "causal" and value != 1e4:
        with pytest.raises(qkv.Refused, match="holds NaN or infinity"):
            problem.run(strategy, operands=(q, k, v))
        return
    assert problem.run(strategy, operands=(q, k, v)).output[1].equal(problem.run(strategy).output[1])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_contiguous_twin(strategy: str, layout: str) -> None:
    """The same numbers in another layout give the same bits, in output and gradients."""
    sizes = replace(SIZES, batch=1) if layout == "oversize singleton stride" else SIZES
    problem = replace(_of(strategy, keep="causal"), sizes=sizes)
    operands = tuple(lay_out(x, layout) for x in problem.operands if fits(tuple(x.shape), layout))
    assert len(operands) == 3
    twins = tuple(x.clone(memory_format=torch.contiguous_format) for x in operands)
    for found, twin in zip(_derived(problem, strategy, operands), _derived(problem, strategy, twins), strict=True):
        assert found.equal(twin)


def _derived(problem: Problem, strategy: str, operands: tuple[Tensor, ...]) -> list[Tensor]:
    """The output and the gradients of q, k and v."""
    q, k, v = (x.detach().requires_grad_() for x in operands)
    output = problem.run(strategy, operands=(q, k, v)).output
    return [output, *torch.autograd.grad((output * _drawn(*output.shape)).sum(), [q, k, v])]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("strategy", ("reference", "chunked", "cpu", "linear"))
def test_contiguous_twin_at_many_sizes(strategy: str, layout: str) -> None:
    """Matrix products choose their kernels by size, stride and alignment; the bits must not show it."""
    for seed, (batch, queries, keys, features, values) in enumerate(
        ((1, 16, 130, 59, 59), (2, 65, 64, 40, 43), (1, 200, 7, 128, 128), (3, 3, 700, 80, 16), (1, 1, 300, 8, 11))
    ):
        sizes = Sizes(batch, 4, 2, queries, keys, features, values)
        problem = Problem(sizes, weights="linear" if strategy == "linear" else "softmax", seed=SEED + seed)
        if not all(fits(shape, layout) for shape in sizes.shapes):
            continue
        operands = tuple(lay_out(x, layout) for x in problem.operands)
        twins = tuple(x.clone(memory_format=torch.contiguous_format) for x in operands)
        for found, twin in zip(_derived(problem, strategy, operands), _derived(problem, strategy, twins), strict=True):
            assert found.equal(twin), sizes


@pytest.mark.parametrize("weights", WEIGHINGS)
@pytest.mark.parametrize("rows,keys", ((1, 4), (4, 1), (3, 7), (8, 8), (64, 5)))
def test_other_block_sizes(rows: int, keys: int, weights: str) -> None:
    problem = Problem(SIZES, keep="sinks", weights=weights, seed=SEED)
    with small_blocks(rows, keys):
        check(compare(problem, "chunked", problem.run("chunked"), problem.answer()))


@pytest.mark.parametrize("score", SCORES)
def test_other_block_sizes_of_scores(score: str) -> None:
    problem = Problem(SIZES, keep="sinks", score=score, seed=SEED)
    for rows, keys in ((2, 24), (24, 2), (5, 5)):
        with small_blocks(rows, keys):
            check(compare(problem, "chunked", problem.run("chunked"), problem.answer()))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_thread_counts(strategy: str) -> None:
    """Forward and backward have the same bits on one thread and on several; sizes at which torch splits its work."""
    sizes = Sizes(batch=2, query_heads=4, key_heads=2, query_length=300, key_length=300, feature_size=32, value_size=32)
    weights = "linear" if strategy == "linear" else "softmax"
    problem = Problem(sizes, keep="causal", weights=weights, seed=SEED)
    found = [_on_threads(problem, strategy, threads) for threads in (1, 2, 5)]
    # the gradients of `sdpa` are torch's, whose matrix products divide a sum among threads on some processors
    compared = 1 if strategy == "sdpa" and not _torch_keeps_bits(problem.operands) else None
    for others in found[1:]:
        assert all(a.equal(b) for a, b in zip(found[0][:compared], others[:compared], strict=True))


def _torch_keeps_bits(operands: tuple[Tensor, Tensor, Tensor]) -> bool:
    """Whether torch's own SDPA has the same gradients on one thread and on several."""
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            q, k, v = (x.clone().requires_grad_() for x in operands)
            output = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            found.append(torch.autograd.grad((output * _drawn(*output.shape)).sum(), [q, k, v]))
    finally:
        torch.set_num_threads(before)
    return all(a.equal(b) for others in found[1:] for a, b in zip(found[0], others, strict=True))


@pytest.mark.parametrize(
    "parts",
    (
        {"score": "t5"},
        {"score": "custom"},
        {"score": "shaw values"},
        {"weights": "sink"},
        {"weights": "clamped"},
        {"weights": "paper"},
    ),
    ids=str,
)
@pytest.mark.parametrize("strategy", ("chunked", "cpu"))
def test_thread_counts_with_learned_tables(strategy: str, parts: dict[str, str]) -> None:
    """The gradients of captured tensors too, which many pairs add to."""
    sizes = Sizes(batch=2, query_heads=4, key_heads=2, query_length=200, key_length=300, feature_size=16, value_size=16)
    problem = Problem(sizes, keep="causal", seed=SEED, **parts)  # type: ignore[arg-type]
    if left_out(problem, strategy):
        return
    found = [_on_threads(problem, strategy, threads) for threads in (1, 2, 5)]
    for others in found[1:]:
        assert all(a.equal(b) for a, b in zip(found[0], others, strict=True))


def _on_threads(problem: Problem, strategy: str, threads: int) -> list[Tensor]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        leaves = {name: x.clone().requires_grad_() for name, x in problem.leaves.items()}
        q, k, v = (x.clone().requires_grad_() for x in problem.operands)
        output = problem.run(strategy, leaves=leaves, operands=(q, k, v)).output
        slopes = torch.autograd.grad((output * _drawn(*output.shape)).sum(), [q, k, v, *leaves.values()])
        return [output, *slopes]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_twice_the_same(strategy: str) -> None:
    problem = _of(strategy, keep="causal")
    assert problem.run(strategy).output.equal(problem.run(strategy).output)


@pytest.mark.parametrize("weights", [name for name in WEIGHINGS if name != "paper"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_values_times_a_power_of_two(strategy: str, weights: str) -> None:
    """Exactly scaled output. (The paper's normalisation adds an epsilon, so it is left out; its invariant is its
    own.)
    """
    problem = Problem(SIZES, keep="causal", weights=weights, seed=SEED)
    if expected(problem, strategy):
        with pytest.raises(qkv.Refused):
            problem.run(strategy)
        return
    q, k, v = problem.operands
    for power in (-20, 10):
        assert problem.run(strategy, operands=(q, k, v * 2.0**power)).output.equal(
            problem.run(strategy).output * 2.0**power
        )


@pytest.mark.parametrize("strategy", ("reference", "chunked", "cpu"))
def test_a_constant_added_to_every_logit(strategy: str) -> None:
    """Weights stay and lse moves by the constant."""
    problem = Problem(SIZES, keep="causal", seed=SEED)
    q, k, v = problem.operands
    answer = problem.answer()
    for constant in (3.0, -700.0, 5e4):
        spec = qkv.Spec(PATTERN, keep=qkv.causal(), score=qkv.bias(torch.full((24,), constant), "j"))
        with qkv.strategy(strategy), small_blocks():
            result = spec.run(q, k, v, want=("lse",))
        moved = oracle(q, k, v, keep=problem.mask, bias=torch.full((1, 1, 1, 24), constant))
        assert worst_ratio(result.output, moved) <= 1
        assert worst_lse_ratio(result.lse, moved) <= 1
        assert answer.lse is not None and moved.lse is not None
        assert torch.allclose(moved.lse - constant, answer.lse)


@pytest.mark.parametrize("strategy", ("reference", "chunked", "cpu"))
def test_documents_concatenated_are_separate(strategy: str) -> None:
    q, k, v = Problem(SIZES, seed=SEED).operands
    cuts, ids = (0, 5, 6, 17, 24), torch.tensor([0] * 5 + [1] + [2] * 11 + [3] * 7)
    with qkv.strategy(strategy), small_blocks(4, 8):
        packed = qkv.attention(q, k, v, PATTERN, keep=qkv.causal() & qkv.documents(ids, "j"))
        for start, stop in pairwise(cuts):
            part = tuple(x[:, :, start:stop] for x in (q, k, v))
            answer = oracle(*part, keep=torch.ones(stop - start, stop - start).tril().bool())
            assert worst_ratio(packed[:, :, start:stop], answer) <= 1
            assert worst_ratio(qkv.attention(*part, PATTERN, keep=qkv.causal()), answer) <= 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_aliased_operands(strategy: str) -> None:
    """One tensor as q, k and v: the same answer and, for its gradient, the sum of the three."""
    x = _drawn(2, 3, 9, 8)
    weights = qkv.linear() if strategy == "linear" else None
    spec = qkv.Spec(keep=qkv.causal(), weights=weights)
    with qkv.strategy(strategy):
        one = x.clone().requires_grad_()
        q, k, v = (x.clone().requires_grad_() for _ in range(3))
        aliased, apart = spec(one, one, one), spec(q, k, v)
        assert aliased.equal(apart)
        grad = _drawn(*aliased.shape)
        (slope,) = torch.autograd.grad((aliased * grad).sum(), one)
        assert torch.allclose(slope, sum(torch.autograd.grad((apart * grad).sum(), [q, k, v])))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_operands_are_left_alone(strategy: str) -> None:
    problem = _of(strategy, keep="causal")
    operands = tuple(x.clone() for x in problem.operands)
    problem.run(strategy, operands=operands)  # type: ignore[arg-type]
    assert all(a.equal(b) for a, b in zip(operands, problem.operands, strict=True))


RELATIVE = [name for name in KEEPS if name not in ("random", "dead rows", "tree", "bigbird")]


@pytest.mark.parametrize("score", ("none", "alibi", "t5", "shaw values"))
@pytest.mark.parametrize("place", ("none", "rope", "interleaved"))
@pytest.mark.parametrize("strategy", ("reference", "chunked", "cpu"))
def test_prefill_is_token_by_token(strategy: str, place: str, score: str) -> None:
    """One query at a time over the keys so far, by ``align`` and by ``positions``, gives what all at once give."""
    problem = Problem(SIZES, keep="causal", place=place, score=score, seed=SEED)
    q, k, v = problem.operands
    answer, spec = problem.answer(), problem.spec()
    with qkv.strategy(strategy):
        aligned = [spec(q[:, :, n : n + 1], k[:, :, : n + 1], v[:, :, : n + 1], align="end") for n in range(24)]
        placed = [spec(q[:, :, n : n + 1], k[:, :, : n + 1], v[:, :, : n + 1], positions={"i": n}) for n in range(24)]
        given = [
            spec(q[:, :, n : n + 2], k, v, positions={"i": torch.arange(n, n + 2), "j": torch.arange(24)})
            for n in range(0, 24, 2)
        ]
        chunks = [
            spec(q[:, :, a:b], k[:, :, :b], v[:, :, :b], align="end") for a, b in ((0, 7), (7, 8), (8, 19), (19, 24))
        ]
    for parts in (aligned, placed, given, chunks):
        assert worst_ratio(torch.cat(parts, 2), answer) <= 1


@pytest.mark.parametrize("keep", RELATIVE)
@pytest.mark.parametrize("strategy", ("reference", "chunked", "cpu"))
def test_masks_token_by_token(strategy: str, keep: str) -> None:
    """Every mask that compares positions: a query on its own sees the keys that it sees among all."""
    problem = Problem(SIZES, keep=keep, seed=SEED)
    q, k, v = problem.operands
    answer, spec = problem.answer(), problem.spec()
    with qkv.strategy(strategy), small_blocks(4, 4):
        tokens = [spec(q[:, :, n : n + 1], k, v, positions={"i": n}) for n in range(24)]
    assert worst_ratio(torch.cat(tokens, 2), answer) <= 1
