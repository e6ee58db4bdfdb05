"""Gradients: of every term and kind of weights in float64, of everything captured, and within the bound in all
dtypes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor

import qkv
from qkv.testing import Gradient, Sigmoid, Sizes, covering, oracle_gradients, worst_gradient_ratio
from tests.conftest import SEED
from tests.contract.blocking import small_blocks
from tests.contract.derivatives import drawn, gradients
from tests.contract.judge import Verdict
from tests.contract.keeps import KEEPS
from tests.contract.places import PLACES
from tests.contract.problem import PATTERN, STRATEGIES, Problem
from tests.contract.refusals import expected as expected_refusal
from tests.contract.refusals import left_out
from tests.contract.scores import SCORES
from tests.contract.tally import note
from tests.contract.weighings import WEIGHINGS

TINY = Sizes(batch=2, query_heads=2, key_heads=1, query_length=3, key_length=4, feature_size=4, value_size=3)
SMALL = Sizes(batch=2, query_heads=4, key_heads=2, query_length=9, key_length=13, feature_size=8, value_size=6)
WAYS = ("reference", "chunked", "cpu", "chunked in small blocks")

TERMS: list[dict[str, str]] = [
    *({"keep": name} for name in KEEPS),
    *({"score": name, "keep": "window"} for name in SCORES),
    *({"place": name, "keep": "causal"} for name in PLACES),
    *({"weights": name, "keep": "causal"} for name in WEIGHINGS),
    {"score": "several", "place": "rope", "weights": "sink", "keep": "documents"},
    {"score": "custom", "weights": "sigmoid", "keep": "dead rows"},
    {"score": "t5", "weights": "paper", "place": "interleaved", "keep": "padding"},
    {"score": "bias", "weights": "clamped", "keep": "sinks"},
    {"score": "shaw values", "weights": "sink", "place": "rope", "keep": "causal"},
    {"score": "shaw values", "weights": "sigmoid", "keep": "causal"},
    {"score": "reversed order", "weights": "off by one", "keep": "combined"},
]


def _blocks(way: str) -> AbstractContextManager[None]:
    return small_blocks(2, 3, scores=64) if way.endswith("small blocks") else nullcontext()


def _named(parts: dict[str, str]) -> str:
    return "-".join(parts.values())


@pytest.mark.parametrize("way", ("reference", "cpu", "chunked in small blocks"))
@pytest.mark.parametrize("parts", TERMS, ids=_named)
def test_gradcheck(parts: dict[str, str], way: str) -> None:
    """Numerical differences in float64, of output and lse, by q, k, v and everything that is captured."""
    problem = Problem(TINY, dtype=torch.float64, seed=SEED, **parts)  # type: ignore[arg-type]
    if left_out(problem, way.split()[0]):
        return
    names = list(problem.leaves)
    has_lse = problem.made_weights.kind in ("softmax", "differential")

    def function(*inputs: Tensor) -> tuple[Tensor, ...]:
        q, k, v, *leaves = inputs
        leaves_by_name = dict(zip(names, leaves, strict=True))
        want = ("lse",) if has_lse else ()
        result = problem.run(way.split()[0], want=want, leaves=leaves_by_name, operands=(q, k, v))
        if result.lse is None:
            return (result.output,)
        return result.output, torch.where(result.lse == -torch.inf, 0.0, result.lse)

    inputs = [x.clone().requires_grad_() for x in (*problem.operands, *problem.leaves.values())]
    with _blocks(way):
        assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("way", (*WAYS, "linear"))
@pytest.mark.parametrize("parts", TERMS, ids=_named)
def test_definition(parts: dict[str, str], way: str) -> None:
    """Against the gradients of the definition in float64, at sizes where blocks have borders."""
    problem = Problem(SMALL, dtype=torch.float64, seed=SEED, **parts)  # type: ignore[arg-type]
    grad, grad_lse = drawn(problem, lse=True)
    expected = gradients(problem, None, grad, grad_lse)
    try:
        with _blocks(way):
            found = gradients(problem, way.split()[0], grad, grad_lse)
    except qkv.Refused:
        assert way == "linear" or expected_refusal(problem, way)
        return
    for name, slope in found.items():
        # both in float64: what is left is rounding, and a wrong gradient is wrong in its first digits
        torch.testing.assert_close(
            slope, expected[name], rtol=1e-9, atol=1e-11, msg=lambda text, n=name: f"{n}: {text}"
        )


AXES = {
    "dtype": (torch.float32, torch.bfloat16, torch.float16, torch.float64),
    "family": ("randn", "sharp", "poison", "dyadic"),
    "keep": tuple(KEEPS),
    "score": ("none", "softcap", "bias", "bias by key", "t5", "alibi", "several"),
    "weights": ("softmax", "sink", "off by one", "sigmoid"),
    "heads": ((1, 1), (4, 4), (6, 2), (8, 1)),
    "lengths": ((1, 1), (3, 16), (17, 17), (63, 65), (65, 63), (128, 31)),
    "features": ((1, 1), (8, 8), (40, 16), (59, 59), (64, 64), (128, 64)),
    "layout": ("contiguous", "heads last", "feature strided", "slice of a packed tensor", "storage offset"),
}


def _senseless(row: dict[str, object]) -> bool:
    return row.get("family") == "poison" and row.get("keep") == "full"


FUSED = {
    **AXES,
    "keep": ("full", "causal"),
    "score": ("none",),
    "weights": ("softmax",),
    "lengths": ((1, 1), (17, 17), (64, 64), (129, 129)),
    "features": ((8, 8), (40, 40), (64, 64)),
}
ARRAYS = {
    name: covering(axes, forbidden=_senseless, seed=SEED).rows  # type: ignore[arg-type]
    for name, axes in (("gradients", AXES), ("fused gradients", FUSED))
}


@pytest.mark.parametrize(("array", "number"), [(name, n) for name, rows in ARRAYS.items() for n in range(len(rows))])
def test_within_the_bound(array: str, number: int, request: pytest.FixtureRequest) -> None:
    """Covering arrays of gradients on every strategy, against the oracle's gradients and their bound."""
    row = ARRAYS[array][number]
    (query_heads, key_heads), (queries, keys), (features, values) = row["heads"], row["lengths"], row["features"]  # type: ignore[misc]
    problem = Problem(
        Sizes(2, query_heads, key_heads, queries, keys, features, values),  # type: ignore[has-type]
        **{name: row[name] for name in ("dtype", "family", "keep", "score", "weights", "layout")},  # type: ignore[arg-type]
        seed=SEED + number,
    )
    print(problem)
    grad, _ = drawn(problem, lse=False)
    q, k, v = problem.operands
    change = problem.made_score.change({n: x.double() for n, x in problem.leaves.items()}, q.double())
    sigmoid = Sigmoid(-1.5) if problem.weights == "sigmoid" else None
    told = {} if sigmoid else problem.made_weights.oracle({n: x.double() for n, x in problem.leaves.items()})
    expected = oracle_gradients(
        q, k, v, grad, keep=problem.mask, bias=change.bias, softcap=change.softcap, sigmoid=sigmoid, **told
    )
    verdicts: list[Verdict] = []
    for strategy in STRATEGIES:
        try:
            found = gradients(problem, strategy, grad, None)
        except qkv.Refused as refused:
            of_forward = [reason for reason in refused.reasons if "gradient" not in reason]
            documented = expected_refusal(problem, strategy)
            assert len(of_forward) == len(documented), refused.reasons
            assert all(x.startswith(y) for x, y in zip(of_forward, documented, strict=True)), refused.reasons
            verdicts.append(Verdict(strategy, None))
            continue
        known = {**expected, **_learned(problem, expected)}
        worst = max(worst_gradient_ratio(slope, known[name]) for name, slope in found.items())
        verdicts.append(Verdict(strategy, worst))
    note(request, array, verdicts)
    for verdict in verdicts:
        assert verdict.output is None or verdict.output <= 1, verdict


def _learned(problem: Problem, expected: dict[str, Gradient]) -> dict[str, Gradient]:
    """The gradient of a table whose elements are read into the bias: what their readers' gradients add up to."""
    leaves = {n: x.double().requires_grad_() for n, x in problem.made_score.leaves.items()}
    if not leaves:
        return {}
    ((name, leaf),) = leaves.items()
    made = problem.made_score.change(leaves, problem.case.q.double()).bias
    assert made is not None

    def summed(x: Tensor) -> Tensor:
        return torch.autograd.grad(made, leaf, x.expand(made.shape), retain_graph=True)[0]

    each = expected["bias"]
    sizes = problem.sizes
    pairs = sizes.batch * sizes.query_heads * sizes.query_length * sizes.key_length // max(1, made.numel())
    count = int(summed(torch.ones_like(made)).max()) * max(1, pairs)
    parts = (summed(x) for x in (each.value, each.magnitude, each.spread, each.lost))
    # sums are made in float32 whatever the inputs' dtype, and learned tables are float32
    return {name: Gradient(*parts, count, torch.float64 if problem.dtype == torch.float64 else torch.float32)}


def _problem(**parts: str) -> Problem:
    return Problem(TINY, dtype=torch.float64, seed=SEED, **parts)  # type: ignore[arg-type]


DIFFERENT = [parts for parts in TERMS if not parts.get("weights", "").startswith("linear relu")]


@pytest.mark.parametrize("parts", [p for p in DIFFERENT if len(p) > 1], ids=_named)
def test_second_derivatives_of_reference(parts: dict[str, str]) -> None:
    problem = _problem(**parts)
    names = list(problem.leaves)

    def function(*inputs: Tensor) -> Tensor:
        q, k, v, *leaves = inputs
        return problem.run("reference", leaves=dict(zip(names, leaves, strict=True)), operands=(q, k, v)).output

    inputs = [x.clone().requires_grad_() for x in (*problem.operands, *problem.leaves.values())]
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def _call(problem: Problem) -> Callable[..., Tensor]:
    spec = problem.spec()

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with qkv.strategy("reference"):
            return spec(q, k, v, **problem.standing)

    return function


# torch.func.jvp itself uses torch.jit.script, which warns
JIT = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


@JIT
@pytest.mark.parametrize("parts", TERMS, ids=_named)
def test_forward_derivatives_of_reference(parts: dict[str, str]) -> None:
    """``torch.func.jvp`` against the product with the reverse derivative: <jvp(t), g> = <t, vjp(g)>."""
    problem = _problem(**parts)
    operands = tuple(x.clone() for x in problem.operands)
    tangents = tuple(torch.randn_like(x) for x in operands)
    output, forward = torch.func.jvp(_call(problem), operands, tangents)
    grad = torch.randn_like(output)
    backward = torch.func.vjp(_call(problem), *operands)[1](grad)
    assert output.equal(problem.run("reference").output)
    expected = sum((t * g).sum() for t, g in zip(tangents, backward, strict=True))
    torch.testing.assert_close((forward * grad).sum(), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("parts", TERMS, ids=_named)
def test_vmap_of_reference(parts: dict[str, str]) -> None:
    """A stack of calls is what the calls are one by one, and so are gradients by example."""
    problem = _problem(**parts)
    stacked = tuple(torch.stack([x, x.flip(2), 0.5 * x]) for x in problem.operands)
    call = _call(problem)
    mapped = torch.func.vmap(call)(*stacked)
    apart = [call(*(x[n] for x in stacked)) for n in range(3)]
    torch.testing.assert_close(mapped, torch.stack(apart), rtol=1e-12, atol=1e-12)

    def loss(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return call(q, k, v).square().sum()

    by_example = torch.func.vmap(torch.func.grad(loss))(*stacked)
    one = torch.func.grad(loss)(*(x[1] for x in stacked))
    torch.testing.assert_close(by_example[1], one, rtol=1e-9, atol=1e-11)


@JIT
def test_the_planner_takes_what_knows_the_transform() -> None:
    """``cpu`` knows vmap, ``reference`` alone knows forward-mode derivatives."""
    q, k, v = _problem().operands
    spec = qkv.Spec(PATTERN, keep=qkv.causal())
    kept = {"align": "end"}
    assert spec.plan(q, k, v, **kept).strategy != "reference"
    seen: list[str] = []

    def function(q: Tensor) -> Tensor:
        result = spec.run(q, k, v, **kept)
        seen.append(result.plan.strategy)
        assert "a torch.func transform" in result.plan.refused["chunked"]
        return result.output

    torch.func.jvp(function, (q,), (q,))
    torch.func.vmap(function)(q[None])
    assert seen == ["reference", "cpu"]
    assert spec.run(q, k, v, **kept).plan.strategy != "reference"


@pytest.mark.parametrize("weights", ("softmax", "clamped", "sigmoid", "linear"))
def test_chunked_says_that_it_has_no_second_derivative(weights: str) -> None:
    problem = _problem(keep="causal", weights=weights)
    q, k, v = (x.clone().requires_grad_() for x in problem.operands)
    output = problem.run("chunked", operands=(q, k, v)).output
    (slope,) = torch.autograd.grad(output.square().sum(), q, create_graph=True)
    with pytest.raises(qkv.Refused, match=r'"chunked" has no second derivative.*(?s:.*)Use strategy "reference"'):
        slope.sum().backward()


def test_chunked_first_derivatives_with_create_graph_are_the_same() -> None:
    problem = _problem(keep="causal", score="t5")
    q, k, v = (x.clone().requires_grad_() for x in problem.operands)
    loss = problem.run("chunked", operands=(q, k, v)).output.square().sum()
    with_graph = torch.autograd.grad(loss, [q, k, v], create_graph=True)
    without = torch.autograd.grad(loss, [q, k, v])
    assert all(a.equal(b) for a, b in zip(with_graph, without, strict=True))
