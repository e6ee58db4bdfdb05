"""Nodes: kinds, equality, folding against Python's own arithmetic, growth, and what can be asked of a graph."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qkv import limits
from qkv.errors import InternalError, LimitError
from qkv.terms.expr import (
    OPERATIONS,
    Apply,
    Captured,
    Constant,
    Index,
    Kind,
    Lookup,
    Node,
    Position,
    Score,
    Size,
    apply,
    captured_in,
    children,
    coordinates_read,
    depth,
    describe,
    is_relative,
    look_up,
    positions_read,
    reads_score,
    result_kind,
    substitute,
    walk,
    weight,
)
from qkv.terms.fold import PYTHON
from qkv.terms.values import evaluate
from tests.terms.graphs import environment, kind_of

Q, K = Position("i"), Position("j")
TABLE = Captured(torch.arange(6.0).view(2, 3), "table")


def test_nodes_of_different_kinds_are_different() -> None:
    assert Constant(1) != Constant(True)
    assert Constant(1) != Constant(1.0)
    assert Constant(0.0) != Constant(-0.0)
    assert Constant(float("nan")) == Constant(float("nan"))
    assert len({Constant(1), Constant(True), Constant(1.0), Constant(1)}) == 3
    assert Position("i") != Index("i") != Size("i")
    assert apply("add", Q, K) == apply("add", Q, K)
    assert apply("add", Q, K) != apply("add", K, Q)


def test_captured_tensors_are_equal_when_they_are_the_same_object() -> None:
    tensor = torch.zeros(2)
    assert Captured(tensor) == Captured(tensor, "named")
    assert hash(Captured(tensor)) == hash(Captured(tensor, "named"))
    assert Captured(tensor) != Captured(tensor.clone())
    assert repr(Captured(tensor, "bias")) == "bias<2>"
    assert repr(Captured(torch.tensor(1.0))) == "tensor<scalar>"


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [(torch.bool, Kind.BOOL), (torch.uint8, Kind.INT), (torch.int64, Kind.INT), (torch.bfloat16, Kind.FLOAT)],
)
def test_kind_of_a_captured_tensor(dtype: torch.dtype, kind: Kind) -> None:
    assert Captured(torch.zeros(1, dtype=dtype)).kind is kind
    assert Lookup(Captured(torch.zeros(1, dtype=dtype)), (Q,)).kind is kind


TRUTH, WHOLE, REAL = apply("lt", Q, K), apply("add", Q, K), apply("float", Q)


@pytest.mark.parametrize(
    ("node", "kind"),
    [
        (apply("add", TRUTH, TRUTH), Kind.INT),
        (apply("add", WHOLE, TRUTH), Kind.INT),
        (apply("mul", WHOLE, REAL), Kind.FLOAT),
        (apply("div", Q, K), Kind.FLOAT),
        (apply("floordiv", Q, K), Kind.INT),
        (apply("floordiv", REAL, K), Kind.FLOAT),
        (apply("pow", Q, Constant(2)), Kind.INT),
        (apply("pow", Constant(2), Q), Kind.FLOAT),
        (apply("pow", Q, Constant(-1)), Kind.FLOAT),
        (apply("pow", REAL, Constant(2)), Kind.FLOAT),
        (apply("eq", REAL, REAL), Kind.BOOL),
        (apply("min", Q, REAL), Kind.FLOAT),
        (apply("abs", TRUTH), Kind.INT),
        (apply("exp", Q), Kind.FLOAT),
        (apply("floor", REAL), Kind.INT),
        (apply("select", TRUTH, Q, REAL), Kind.FLOAT),
        (apply("select", TRUTH, TRUTH, apply("not", TRUTH)), Kind.BOOL),
        (Score(), Kind.FLOAT),
        (Size("i"), Kind.INT),
    ],
)
def test_kinds(node: Node, kind: Kind) -> None:
    assert node.kind is kind


NUMBERS = st.one_of(st.booleans(), st.integers(-(2**40), 2**40), st.floats(allow_nan=True, allow_infinity=True))


@given(st.sampled_from(sorted(OPERATIONS)), NUMBERS, NUMBERS, NUMBERS)
def test_folding_constants_is_evaluating_them(operation: str, a: float, b: float, c: float) -> None:
    """A folded constant has the kind and the value that torch computes from its operands, but for the last digits."""
    row = OPERATIONS[operation]
    values = [bool(a), b, c] if operation == "select" else [a, b, c][: row.arity]
    if operation in ("and", "or", "xor", "not"):
        values = [bool(v) for v in values]
    nodes = tuple(Constant(v) for v in values)
    made = apply(operation, *nodes)
    if not isinstance(made, Constant):
        return
    tensors = [torch.tensor(v, dtype=torch.float64 if isinstance(v, float) else None) for v in values]
    leaves = tuple(Lookup(Captured(tensor), ()) for tensor in tensors)
    kind = result_kind(row, nodes)
    found = evaluate(Apply(operation, leaves, kind, 1, 1), environment(0, 0, 0, 0))
    assert made.kind is kind is kind_of(found.dtype)
    assert made.value == pytest.approx(found.item(), rel=1e-12, abs=1e-300, nan_ok=True), (operation, values)


def test_every_operation_has_a_meaning_in_python() -> None:
    assert set(PYTHON) == set(OPERATIONS)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (apply("add", Constant(2), Constant(3)), Constant(5)),
        (apply("div", Constant(1), Constant(2)), Constant(0.5)),
        (apply("pow", Constant(2), Constant(-1)), Constant(0.5)),
        (apply("mod", Constant(-1), Constant(8)), Constant(7)),
        (apply("floordiv", Constant(-1), Constant(8)), Constant(-1)),
        (apply("add", Q, Constant(0)), Q),
        (apply("sub", Q, Constant(0)), Q),
        (apply("mul", Constant(1), Q), Q),
        (apply("mul", Q, Constant(0)), Constant(0)),
        (apply("floordiv", Q, Constant(1)), Q),
        (apply("add", Score(), Constant(0)), Score()),
        (apply("mul", Score(), Constant(1)), Score()),
        (apply("and", TRUTH, Constant(True)), TRUTH),
        (apply("and", Constant(False), TRUTH), Constant(False)),
        (apply("or", TRUTH, Constant(True)), Constant(True)),
        (apply("or", TRUTH, TRUTH), TRUTH),
        (apply("select", Constant(True), Q, K), Q),
        (apply("select", TRUTH, Q, Q), Q),
    ],
)
def test_simplifications(node: Node, expected: Node) -> None:
    assert node == expected


def test_what_must_not_be_simplified() -> None:
    """Each would change a kind, a NaN, or an error into a number."""
    for node in (
        apply("mul", Score(), Constant(0)),  # 0 * NaN
        apply("add", TRUTH, Constant(0)),  # a truth value becomes a number
        apply("add", Q, Constant(0.0)),  # a whole number becomes a float
        apply("floordiv", Score(), Constant(1)),  # rounds
        apply("floordiv", Constant(1), Constant(0)),
        apply("log", Constant(-1.0)),
        apply("select", Constant(True), Q, Score()),  # the kind is that of both branches
        apply("mul", Constant(2**62), Constant(4)),  # beyond 64 bits
        apply("pow", Constant(3), Constant(10**9)),  # would take for ever
        apply("min", Constant(float("nan")), Constant(1.0)),
        apply("pow", Constant(-8.0), Constant(1 / 3)),  # complex in Python
    ):
        assert isinstance(node, Apply), node


def test_growth_is_bounded() -> None:
    node: Node = Q
    with pytest.raises(LimitError, match=f"more than {limits.EXPRESSION_NODES} nodes") as caught:
        for _ in range(30):
            node = apply("add", node, node)
    assert "index it by coordinates" in str(caught.value)
    assert weight(node) <= limits.EXPRESSION_NODES
    node = Q
    with pytest.raises(LimitError, match=f"more than {limits.EXPRESSION_DEPTH} levels"):
        for n in range(limits.EXPRESSION_DEPTH):
            node = apply("add", node, Position(f"i{n}"))
    assert depth(node) == limits.EXPRESSION_DEPTH
    chain = Captured(torch.arange(4))
    node = Q
    with pytest.raises(LimitError, match="levels"):
        for _ in range(limits.EXPRESSION_DEPTH):
            node = look_up(chain, (node,))


def test_the_deepest_graph_can_be_read() -> None:
    node: Node = Q
    for n in range(limits.EXPRESSION_DEPTH - 1):
        node = apply("add", node, Constant(n))
    expected = torch.arange(3)[:, None] + sum(range(limits.EXPRESSION_DEPTH - 1))
    assert torch.equal(evaluate(node, environment(0, 2, 0, 0)), expected)
    assert describe(node).count("+") == limits.EXPRESSION_DEPTH - 2  # + 0 is dropped
    assert hash(node) == hash(substitute(node, {K: Q}))


def test_a_wrong_number_of_operands_is_our_fault() -> None:
    with pytest.raises(InternalError, match="operation add takes 2 operands, not 1"):
        apply("add", Q)


def test_walk_yields_children_first_and_each_once() -> None:
    shared = apply("mul", Q, K)
    node = apply("add", apply("exp", shared), apply("add", shared, Lookup(TABLE, (Q, K))))
    order = list(walk(node))
    assert order[-1] is node
    assert len({id(n) for n in order}) == len(order)
    for parent in order:
        for child in children(parent):
            assert order.index(child) < order.index(parent)


def test_graphs_that_read_differences_alone() -> None:
    moving, ahead = frozenset(("i", "j")), apply("sub", Q, K)
    near = apply("lt", ahead, Constant(3))
    half = apply("add", K, Constant(0.5))
    for node in (
        near,
        apply("lt", Q, apply("add", K, Constant(3))),
        apply("eq", apply("neg", ahead), Position("s")),
        apply("and", near, apply("ge", apply("max", Q, K), apply("min", Q, K))),
        Lookup(TABLE, (apply("mod", ahead, Constant(2)), Constant(1))),
        apply("le", apply("mul", ahead, Constant(0.5)), Size("j")),
    ):
        assert is_relative(node, moving), describe(node)
    for node in (
        apply("lt", Q, Constant(3)),
        apply("lt", apply("add", Q, K), Constant(3)),
        apply("lt", apply("mod", Q, Constant(2)), apply("mod", K, Constant(2))),
        apply("eq", apply("mul", Q, Constant(2)), apply("mul", K, Constant(2))),
        apply("and", near, apply("lt", Index("j"), Constant(3))),
        apply("lt", Q, half),
        apply("lt", apply("sub", Q, half), Constant(3)),
        Lookup(TABLE, (Q, Constant(1))),
        apply("max", ahead, Q),
        apply("lt", ahead, Position("i")),
    ):
        assert not is_relative(node, moving), describe(node)
    assert not is_relative(near, frozenset("i"))


def test_questions() -> None:
    node = apply("lt", apply("add", Lookup(TABLE, (Index("b"), Q)), Score()), apply("sub", K, Size("h")))
    assert positions_read(node) == {"i", "j"}
    assert coordinates_read(node) == {"b", "i", "j", "h"}
    assert captured_in(apply("add", Lookup(TABLE, (Q, K)), Lookup(TABLE, (K, Q)))) == (TABLE,)
    assert reads_score(node)
    assert not reads_score(Q)
    assert captured_in(Q) == ()


def test_substitution_folds_again() -> None:
    node = apply("and", apply("le", K, Q), apply("lt", apply("sub", Q, K), Constant(4)))
    assert substitute(node, {K: Constant(0), Q: Constant(9)}) == Constant(False)
    assert substitute(node, {K: Constant(7), Q: Constant(9)}) == Constant(True)
    assert substitute(Lookup(TABLE, (Q, K)), {Q: Index("b")}) == Lookup(TABLE, (Index("b"), K))
    assert substitute(node, {}) == node


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (apply("and", apply("le", K, Q), apply("lt", apply("sub", Q, K), Constant(4))), "((j <= i) & ((i - j) < 4))"),
        (apply("not", TRUTH), "~(i < j)"),
        (apply("min", Q, Constant(2.5)), "minimum(i, 2.5)"),
        (apply("select", TRUTH, Index("i"), Size("j")), "where(i < j, index(i), size_of(j))"),
        (apply("add", Score(), Lookup(TABLE, (Q, K))), "(score + table[i, j])"),
        (Lookup(Captured(torch.zeros(())), ()), "tensor[]"),
        (apply("neg", Q), "neg(i)"),
        (Constant(math.inf), "inf"),
    ],
)
def test_description(node: Node, text: str) -> None:
    assert describe(node) == text
