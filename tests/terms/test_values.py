"""Values: every operation against plain torch, types, guards, and lookups outside their tables."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qkv.errors import InternalError
from qkv.terms.expr import (
    OPERATIONS,
    Captured,
    Constant,
    Index,
    Lookup,
    Node,
    Position,
    Score,
    Size,
    apply,
)
from qkv.terms.values import Environment, evaluate
from tests.terms.graphs import environment, kind_of, reals, truths, wholes

QUERY, KEY = Position("i"), Position("j")
TRUE, FALSE = torch.tensor(True), torch.tensor(False)


def rows(values: torch.Tensor) -> tuple[Lookup, torch.Tensor]:
    return Lookup(Captured(values), (QUERY,)), values[:, None]


def columns(values: torch.Tensor) -> tuple[Lookup, torch.Tensor]:
    return Lookup(Captured(values), (KEY,)), values[None]


REALS = torch.tensor(
    [0.0, -0.0, 1.0, -1.5, 0.3, 7.25, -100.0, 1e300, float("inf"), float("-inf"), float("nan")]
).double()
WHOLES = torch.tensor([0, 1, -1, 5, -7, 12, 2**40, -(2**40), 3, 2, -2])

PLAIN: dict[str, Any] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.true_divide, "floordiv": torch.floor_divide,
    "mod": torch.remainder, "pow": torch.pow, "lt": torch.lt, "le": torch.le, "eq": torch.eq, "ne": torch.ne,
    "gt": torch.gt, "ge": torch.ge, "min": torch.minimum, "max": torch.maximum, "neg": torch.neg, "abs": torch.abs,
    "exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
    "erf": torch.erf, "sin": torch.sin, "cos": torch.cos,
}  # fmt: skip


def test_no_operation_is_left_out() -> None:
    assert set(PLAIN) | {"and", "or", "xor", "not", "select", "float", "floor"} == set(OPERATIONS)


@pytest.mark.parametrize("operation", PLAIN)
def test_floats_against_torch(operation: str) -> None:
    (left, a), (right, b) = rows(REALS), columns(REALS)
    operands, plain = ((left, right), (a, b)) if OPERATIONS[operation].arity == 2 else ((left,), (a,))
    found = evaluate(apply(operation, *operands), environment(0, 10, 0, 10))
    torch.testing.assert_close(found, PLAIN[operation](*plain), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("operation", sorted(set(PLAIN) - {"pow"}))
def test_whole_numbers_against_torch(operation: str) -> None:
    (left, a), (right, b) = rows(WHOLES), columns(WHOLES)
    if operation in ("floordiv", "mod"):
        right, b = columns(torch.where(WHOLES == 0, 9, WHOLES))
    operands, plain = ((left, right), (a, b)) if OPERATIONS[operation].arity == 2 else ((left,), (a,))
    if OPERATIONS[operation].result == "float":
        plain = tuple(x.double() for x in plain)
    found = evaluate(apply(operation, *operands), environment(0, 10, 0, 10))
    torch.testing.assert_close(found, PLAIN[operation](*plain), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("operation", ["add", "mul", "sub", "floordiv", "mod", "lt"])
def test_division_and_arithmetic_are_pythons(operation: str) -> None:
    """torch agrees with itself above; here with Python, whose rounding is the documented one."""
    from qkv.terms.fold import PYTHON

    (left, _), (right, _) = rows(WHOLES), columns(torch.where(WHOLES == 0, 9, WHOLES))
    found = evaluate(apply(operation, left, right), environment(0, 10, 0, 10))
    for m, a in enumerate(WHOLES.tolist()):
        for n, b in enumerate(torch.where(WHOLES == 0, 9, WHOLES).tolist()):
            exact = PYTHON[operation](a, b)
            assert found[m, n].item() == (exact if isinstance(exact, bool) else (exact + 2**63) % 2**64 - 2**63)


@pytest.mark.parametrize("operation", ["and", "or", "xor", "not"])
def test_logic(operation: str) -> None:
    truth = torch.tensor([False, True])
    (left, a), (right, b) = rows(truth), columns(truth)
    plain = {"and": a & b, "or": a | b, "xor": a ^ b, "not": ~a}[operation]
    operands = (left, right) if operation != "not" else (left,)
    assert torch.equal(evaluate(apply(operation, *operands), environment(0, 1, 0, 1)), plain)


def test_select_float_floor_and_powers() -> None:
    (left, a), (right, b) = rows(REALS), columns(REALS)
    env = environment(0, 10, 0, 10)
    chosen = evaluate(apply("select", apply("lt", left, right), left, right), env)
    torch.testing.assert_close(chosen, torch.where(a < b, a, b), rtol=0, atol=0, equal_nan=True)
    mixed = evaluate(apply("select", apply("lt", left, right), QUERY, right), env)
    torch.testing.assert_close(
        mixed, torch.where(a < b, torch.arange(11)[:, None].double(), b), rtol=0, atol=0, equal_nan=True
    )
    whole, numbers = rows(WHOLES)
    assert torch.equal(evaluate(apply("float", whole), env), numbers.double())
    assert torch.equal(evaluate(apply("pow", whole, Constant(2)), env), numbers**2)
    torch.testing.assert_close(evaluate(apply("pow", Constant(2), whole), env), 2.0 ** numbers.double())
    small, values = rows(torch.tensor([0.5, -0.5, 3.0, -3.2]).double())
    floors = evaluate(apply("floor", small), environment(0, 3, 0, 0))
    assert floors.dtype == torch.int64
    assert torch.equal(floors, values.floor().long())
    assert torch.equal(evaluate(apply("floor", whole), env), numbers)


def test_truth_values_count_as_numbers() -> None:
    truth = apply("lt", QUERY, Constant(1))
    env = environment(0, 1, 0, 1)
    assert evaluate(apply("add", truth, truth), env).flatten().tolist() == [2, 0]
    assert evaluate(apply("mul", truth, Constant(0.5)), env).flatten().tolist() == [0.5, 0.0]
    assert evaluate(apply("neg", truth), env).flatten().tolist() == [-1, 0]
    assert evaluate(apply("max", truth, Constant(False)), env).flatten().tolist() == [1, 0]
    assert evaluate(apply("eq", truth, Constant(1)), env).flatten().tolist() == [True, False]
    assert evaluate(apply("floor", truth), env).flatten().tolist() == [1, 0]
    assert evaluate(apply("exp", truth), env).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_small_whole_numbers_do_not_wrap_around(dtype: torch.dtype) -> None:
    table, _ = rows(torch.tensor([0, 1, 100], dtype=dtype))
    env = environment(0, 2, 0, 0)
    assert evaluate(apply("sub", table, Constant(1)), env).flatten().tolist() == [-1, 0, 99]
    assert evaluate(apply("mul", table, table), env).flatten().tolist() == [0, 1, 10000]
    assert evaluate(apply("mul", table, Constant(2**40)), env).flatten().tolist() == [0, 2**40, 100 * 2**40]
    scalar = Lookup(Captured(torch.tensor(100, dtype=dtype)), ())
    assert evaluate(apply("mul", scalar, scalar), env).item() == 10000


def test_division_of_whole_numbers_by_zero() -> None:
    (left, _), (right, _) = rows(torch.tensor([7, -7, 0])), columns(torch.tensor([0, 2, -2]))
    env = environment(0, 2, 0, 2)
    assert evaluate(apply("floordiv", left, right), env).tolist() == [[0, 3, -4], [0, -4, 3], [0, 0, 0]]
    assert evaluate(apply("mod", left, right), env).tolist() == [[7, 1, -1], [-7, 1, -1], [0, 0, 0]]
    assert evaluate(apply("floordiv", left, Constant(0)), env).flatten().tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("table", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_have_the_environments_type(dtype: torch.dtype, table: torch.dtype) -> None:
    env = environment(0, 2, 0, 2, dtype)
    values, _ = rows(torch.tensor([0.5, 1.5, 2.5], dtype=table))
    scalar = Lookup(Captured(torch.tensor(2.0, dtype=table)), ())
    for node in (
        values,
        scalar,
        apply("add", values, KEY),
        apply("mul", scalar, QUERY),
        apply("div", QUERY, KEY),
        apply("select", apply("lt", QUERY, KEY), values, Constant(1)),
        Constant(0.1),
        apply("exp", QUERY),
    ):
        assert evaluate(node, env).dtype == dtype
    assert evaluate(apply("add", values, values), env).flatten().tolist() == [1.0, 3.0, 5.0]


def test_leaves() -> None:
    env = environment(5, 7, 2, 3)
    env.indices = {"i": torch.arange(3)[:, None], "j": torch.arange(2)[None]}
    env.score = torch.arange(6.0).view(3, 2)
    assert evaluate(QUERY, env).flatten().tolist() == [5, 6, 7]
    assert evaluate(Index("i"), env).flatten().tolist() == [0, 1, 2]
    assert evaluate(Size("j"), env).item() == 2
    assert torch.equal(evaluate(Score(), env), env.score)
    assert torch.equal(evaluate(apply("mul", Score(), Constant(2)), env), env.score * 2)
    with pytest.raises(InternalError, match="a score was read where there is none"):
        evaluate(Score(), environment(0, 1, 0, 1))


def test_values_have_only_the_axes_they_depend_on() -> None:
    env = environment(0, 9, 0, 6)
    assert evaluate(apply("mul", QUERY, Constant(2)), env).shape == (10, 1)
    assert evaluate(apply("lt", KEY, Constant(2)), env).shape == (1, 7)
    assert evaluate(apply("le", KEY, QUERY), env).shape == (10, 7)
    assert evaluate(Constant(True), env).shape == ()


def test_replaced_tables() -> None:
    captured = Captured(torch.tensor([1.0, 2.0]))
    node = apply("add", Lookup(captured, (QUERY,)), Constant(1))
    env = environment(0, 1, 0, 0, tables={captured: torch.tensor([10.0, 20.0])})
    assert evaluate(node, env).flatten().tolist() == [11.0, 21.0]


def outside(node: Node, env: Environment) -> torch.Tensor:
    """Where a lookup left its table, over both axes; the result must not be empty when one did."""
    evaluate(node, env)
    found = torch.zeros(len(env.positions["i"]), env.positions["j"].numel(), dtype=torch.bool)
    for _, where in env.outside:
        found |= where
    return found


TABLE = Captured(torch.tensor([3.0, 1.0, 2.0]))
NUMBER = Lookup(TABLE, (apply("sub", QUERY, KEY),))
DIFFERENCE = torch.arange(5)[:, None] - torch.arange(4)
BEYOND = (DIFFERENCE < 0) | (DIFFERENCE >= 3)
INSIDE = apply(
    "and", apply("ge", apply("sub", QUERY, KEY), Constant(0)), apply("lt", apply("sub", QUERY, KEY), Constant(3))
)
POSITIVE = apply("gt", NUMBER, Constant(0))


def test_lookups_outside_are_clamped_and_noted() -> None:
    env = environment(0, 4, 0, 3)
    found = evaluate(NUMBER, env)
    assert torch.equal(found, torch.tensor([3.0, 1.0, 2.0]).double()[DIFFERENCE.clamp(0, 2)])
    assert torch.equal(outside(NUMBER, environment(0, 4, 0, 3)), BEYOND)
    assert {lookup for lookup, _ in env.outside} == {NUMBER}
    assert not outside(NUMBER, environment(2, 2, 0, 2)).any()


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (apply("and", INSIDE, POSITIVE), torch.zeros_like(BEYOND)),
        (apply("or", apply("not", INSIDE), POSITIVE), torch.zeros_like(BEYOND)),
        (apply("select", INSIDE, NUMBER, Constant(0.0)), torch.zeros_like(BEYOND)),
        (apply("select", apply("not", INSIDE), Constant(0.0), NUMBER), torch.zeros_like(BEYOND)),
        (apply("select", INSIDE, Constant(0.0), NUMBER), BEYOND),
        (apply("or", INSIDE, POSITIVE), BEYOND),
        (apply("and", apply("lt", QUERY, Constant(2)), POSITIVE), BEYOND & (torch.arange(5) < 2)[:, None]),
        (apply("and", INSIDE, apply("select", POSITIVE, POSITIVE, POSITIVE)), torch.zeros_like(BEYOND)),
        (
            apply("and", apply("lt", KEY, Constant(2)), apply("and", apply("lt", QUERY, Constant(2)), POSITIVE)),
            BEYOND & (torch.arange(5) < 2)[:, None] & (torch.arange(4) < 2),
        ),
        (apply("and", POSITIVE, INSIDE), BEYOND),
    ],
)
def test_guards(node: Node, expected: torch.Tensor) -> None:
    """Only lookups that somebody sees are noted: behind ``&``, ``|`` and ``where`` those of the side that counts."""
    assert torch.equal(outside(node, environment(0, 4, 0, 3)), expected)


def test_a_shared_lookup_is_noted_where_it_is_not_guarded() -> None:
    node = apply("or", apply("and", INSIDE, POSITIVE), POSITIVE)
    assert outside(node, environment(0, 4, 0, 3))[0, 3]
    node = apply("add", apply("select", INSIDE, NUMBER, Constant(0.0)), NUMBER)
    assert torch.equal(outside(node, environment(0, 4, 0, 3)), BEYOND)


def test_indices_of_guarded_lookups_are_guarded_too() -> None:
    inner = Lookup(Captured(torch.tensor([0, 1, 2])), (apply("sub", QUERY, KEY),))
    node = apply("and", INSIDE, apply("gt", Lookup(TABLE, (inner,)), Constant(0)))
    assert not outside(node, environment(0, 4, 0, 3)).any()


def test_lookups_that_are_known_to_be_inside_are_not_checked() -> None:
    env = environment(2, 2, 0, 2, inside=frozenset({NUMBER}))
    assert torch.equal(evaluate(NUMBER, env).flatten(), torch.tensor([2.0, 1.0, 3.0]).double())
    assert env.outside == []


@given(
    st.one_of(truths(), wholes(), reals()),
    st.integers(-5, 20),
    st.integers(0, 6),
    st.integers(-5, 20),
    st.integers(0, 6),
)
def test_random_graphs(node: Node, first_i: int, more_i: int, first_j: int, more_j: int) -> None:
    """The type is that of the kind; blocks agree with the whole; each pair alone gives the same."""
    whole = evaluate(node, environment(first_i, first_i + more_i, first_j, first_j + more_j))
    assert kind_of(whole.dtype) is node.kind
    whole = whole.broadcast_to(more_i + 1, more_j + 1)
    corner = evaluate(node, environment(first_i + more_i, first_i + more_i, first_j, first_j)).reshape(())
    torch.testing.assert_close(whole[-1, 0], corner, rtol=1e-12, atol=0, equal_nan=True)


def test_gradients_flow_to_captured_tensors_and_the_score() -> None:
    table = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    score = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    node = apply("mul", apply("tanh", Score()), Lookup(Captured(table), (QUERY,)))
    evaluate(node, environment(0, 2, 0, 2, score=score)).sum().backward()
    torch.testing.assert_close(table.grad, score.tanh().sum(1))
    torch.testing.assert_close(score.grad, (1 - score.tanh() ** 2) * table[:, None])
