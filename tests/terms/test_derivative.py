"""Derivatives: each rule against torch's autograd in float64, by the score and by captured tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qkv.terms.derivative import depends_on, derivative, is_zero, lookups_of
from qkv.terms.expr import (
    OPERATIONS,
    Captured,
    Constant,
    Kind,
    Lookup,
    Node,
    Position,
    Score,
    apply,
    captured_in,
    describe,
)
from qkv.terms.trace import trace_named
from qkv.terms.values import evaluate
from tests.terms.graphs import environment

SCORE, QUERY, KEY = Score(), Position("i"), Position("j")
# No ties and no poles of the functions below, but both signs and both sides of 1.
POINTS = torch.tensor([[-2.3, -0.7, 0.4], [0.9, 1.1, 2.6], [-1.4, 0.2, 3.3]], dtype=torch.float64)


def by_autograd(node: Node, score: torch.Tensor) -> torch.Tensor:
    point = score.clone().requires_grad_()
    value = evaluate(node, environment(0, 2, 0, 2, score=point)).broadcast_to(3, 3)
    if not value.requires_grad:
        return torch.zeros_like(score)
    return torch.autograd.grad(value.sum(), point)[0]


def by_rule(node: Node, score: torch.Tensor) -> torch.Tensor:
    return evaluate(derivative(node, SCORE), environment(0, 2, 0, 2, score=score)).broadcast_to(3, 3)


def agree(node: Node, score: torch.Tensor = POINTS) -> None:
    torch.testing.assert_close(by_rule(node, score), by_autograd(node, score), rtol=1e-12, atol=1e-13, equal_nan=True)


OTHER = Lookup(Captured(torch.tensor([0.6, 1.7, -2.2], dtype=torch.float64)), (KEY,))
POSITIVE = apply("add", apply("mul", SCORE, SCORE), Constant(0.3))

BINARY = sorted(name for name, row in OPERATIONS.items() if row.arity == 2 and row.result not in ("bool",))
UNARY = sorted(name for name, row in OPERATIONS.items() if row.arity == 1 and name != "not")


@pytest.mark.parametrize("operation", BINARY)
def test_operations_of_two(operation: str) -> None:
    base = POSITIVE if operation == "pow" else SCORE
    for left, right in ((base, OTHER), (base, Constant(1.75)), (base, apply("tanh", SCORE)), (base, KEY)):
        agree(apply(operation, left, right))
    positive = Constant(1.75)
    agree(apply(operation, positive, SCORE))
    agree(apply(operation, positive, POSITIVE))


@pytest.mark.parametrize("operation", UNARY)
def test_operations_of_one(operation: str) -> None:
    inner = POSITIVE if operation in ("log", "sqrt") else SCORE
    agree(apply(operation, inner))
    agree(apply("mul", apply(operation, inner), OTHER))


@pytest.mark.parametrize("operation", ["lt", "le", "eq", "ne", "gt", "ge"])
def test_comparisons_are_flat(operation: str) -> None:
    test = apply(operation, SCORE, OTHER)
    assert is_zero(derivative(test, SCORE))
    agree(apply("select", test, apply("mul", SCORE, Constant(3.0)), apply("exp", SCORE)))
    agree(apply("mul", test, SCORE))


def test_every_operation_was_met() -> None:
    assert {*BINARY, *UNARY, "lt", "le", "eq", "ne", "gt", "ge", "select", "and", "or", "xor", "not"} == set(OPERATIONS)


def test_a_wrong_rule_would_be_noticed() -> None:
    with pytest.raises(AssertionError):
        torch.testing.assert_close(by_rule(apply("tanh", SCORE), POINTS), by_autograd(apply("sin", SCORE), POINTS))


def test_ties_and_kinks_are_torchs() -> None:
    zeros = torch.zeros(3, 3, dtype=torch.float64)
    for node in (
        apply("abs", SCORE),
        apply("max", SCORE, Constant(0.0)),
        apply("min", SCORE, Constant(0.0)),
        apply("max", SCORE, apply("mul", SCORE, Constant(2.0))),
        apply("min", apply("neg", SCORE), SCORE),
        apply("pow", SCORE, Constant(2)),
        apply("pow", SCORE, Constant(1)),
        apply("sqrt", SCORE),
        apply("pow", Lookup(Captured(zeros[0]), (KEY,)), apply("add", SCORE, Constant(1.0))),
    ):
        agree(node, zeros)


def test_powers_by_the_exponent() -> None:
    base = Lookup(Captured(torch.tensor([0.0, 1.0, 2.5], dtype=torch.float64)), (KEY,))
    agree(apply("pow", base, POSITIVE))
    agree(apply("pow", Constant(2), apply("neg", SCORE)))
    exponent = Lookup(Captured(torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)), (KEY,))
    agree(apply("pow", SCORE, exponent))
    agree(apply("pow", SCORE, exponent), torch.zeros(3, 3, dtype=torch.float64))


def test_a_branch_that_is_not_taken_does_not_count() -> None:
    """Its derivative may be NaN; autograd multiplies it by zero and gets NaN, the rule never reads it."""
    node = apply("select", apply("gt", SCORE, Constant(0.0)), apply("log", SCORE), Constant(0.0))
    score = torch.zeros(3, 3, dtype=torch.float64)
    assert torch.equal(by_rule(node, score), score)
    agree(node, POINTS.abs())


def test_independent_graphs_have_derivative_zero() -> None:
    for node in (QUERY, Constant(2.0), OTHER, apply("mul", OTHER, KEY), apply("floor", SCORE), apply("lt", SCORE, KEY)):
        assert is_zero(derivative(node, SCORE))
    assert derivative(SCORE, SCORE) == Constant(1.0)
    assert describe(derivative(apply("mul", SCORE, Constant(0.5)), SCORE)) == "0.5"
    assert describe(derivative(apply("add", SCORE, apply("mul", OTHER, KEY)), SCORE)) == "1"
    assert depends_on(apply("tanh", SCORE), SCORE)
    assert not depends_on(OTHER, SCORE)


LIBRARY: dict[str, Callable[..., Any]] = {
    "soft cap": lambda score: 50.0 * torch.tanh(score / 50.0),
    "alibi": lambda score, i, j: score - 0.25 * (i - j).abs(),
    "relu": lambda score: score.clamp(min=0),
    "gelu": lambda score: 0.5 * score * (1 + torch.erf(score * 0.7071)),
    "swish": lambda score: score * torch.sigmoid(score),
    "cubic": lambda score, i, j: score**3 - score * i + j,
    "gated": lambda score, i, j: torch.where(i >= j, score * 2, torch.exp(-score)),
    "ratio": lambda score: score / (1 + score.abs()),
    "periodic": lambda score: torch.sin(score) * torch.cos(2 * score) + score % 1.3,
}


@pytest.mark.parametrize("name", LIBRARY)
def test_score_functions(name: str) -> None:
    node = trace_named(LIBRARY[name], Kind.FLOAT)[1]
    agree(node)
    agree(derivative(node, SCORE))  # and the derivative's own


def gradients(node: Node, table: torch.Tensor, score: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A captured tensor's gradient by the rules, contributions added where they were read, and by autograd."""
    captured = Captured(table)
    weight = torch.linspace(0.5, 1.5, 9, dtype=torch.float64).view(3, 3)
    total = torch.zeros_like(table)
    env = environment(0, 2, 0, 2, score=score)
    for lookup in lookups_of(node, captured):
        slope = evaluate(derivative(node, lookup), env).broadcast_to(3, 3) * weight
        places = [evaluate(index, env).broadcast_to(3, 3) for index in lookup.indices]
        where = tuple(p.reshape(-1) for p in places)
        total = total.index_put(where, slope.reshape(-1), accumulate=True) if where else total + slope.sum()
    leaf = table.clone().requires_grad_()
    value = evaluate(node, environment(0, 2, 0, 2, score=score, tables={captured: leaf})).broadcast_to(3, 3)
    return total, torch.autograd.grad((value * weight).sum(), leaf)[0]


SLOPE = torch.tensor([0.5, -1.25, 2.0], dtype=torch.float64)
BIAS = torch.arange(15, dtype=torch.float64).view(3, 5) / 7 - 1
SCALAR = torch.tensor(1.5, dtype=torch.float64)

CAPTURED: dict[str, tuple[torch.Tensor, Callable[..., Any]]] = {
    "slope": (SLOPE, lambda score, i, j: score - SLOPE[i] * (i - j)),
    "twice": (SLOPE, lambda score, i, j: score * SLOPE[i] + torch.tanh(SLOPE[j])),
    "same twice": (SLOPE, lambda score, i, j: score * SLOPE[i] * SLOPE[i]),
    "nested": (SLOPE, lambda score, i, j: torch.exp(SLOPE[j] * score) / (1 + SLOPE[i] ** 2)),
    "bias of differences": (BIAS, lambda score, i, j: score + BIAS[j, i - j + 2]),
    "scalar": (SCALAR, lambda score, i, j: torch.tanh(score / SCALAR) * SCALAR),
    "guarded": (SLOPE, lambda score, i, j: torch.where(i >= j, score * SLOPE[i - j], score)),
    "clamped": (BIAS, lambda score, i, j: torch.minimum(score, BIAS[i, j]) - torch.maximum(BIAS[j, i], score)),
}


@pytest.mark.parametrize("name", CAPTURED)
def test_captured_tensors(name: str) -> None:
    table, function = CAPTURED[name]
    node = trace_named(function, Kind.FLOAT)[1]
    assert captured_in(node) == (Captured(table),)
    rule, autograd = gradients(node, table, POINTS)
    torch.testing.assert_close(rule, autograd, rtol=1e-12, atol=1e-13)
    assert autograd.abs().max() > 0


def test_distinct_lookups() -> None:
    node = trace_named(CAPTURED["twice"][1], Kind.FLOAT)[1]
    found = lookups_of(node, Captured(SLOPE))
    assert len(found) == 2
    assert set(found) == {Lookup(Captured(SLOPE), (QUERY,)), Lookup(Captured(SLOPE), (KEY,))}
    assert lookups_of(node, Captured(BIAS)) == ()


SMOOTH = st.recursive(
    st.sampled_from([SCORE, OTHER, Constant(0.7), Constant(-1.3), QUERY, KEY]),
    lambda smaller: st.one_of(
        st.tuples(st.sampled_from(("add", "sub", "mul", "min", "max")), smaller, smaller).map(lambda t: apply(*t)),
        st.tuples(st.sampled_from(("tanh", "sigmoid", "sin", "cos", "erf", "neg", "abs", "float")), smaller).map(
            lambda t: apply(*t)
        ),
        smaller.map(lambda n: apply("div", n, apply("add", apply("mul", n, n), Constant(0.5)))),
        st.tuples(smaller, smaller).map(lambda t: apply("select", apply("lt", *t), *t)),
    ),
    max_leaves=8,
)


@given(SMOOTH)
@settings(max_examples=300)
def test_random_graphs(node: Node) -> None:
    if node.kind is Kind.FLOAT:
        agree(node)
