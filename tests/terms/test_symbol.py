"""Symbols: every operator and every torch function records what it computes, and what cannot be recorded says so."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from qkv.errors import TraceError
from qkv.terms.expr import Captured, Constant, Index, Kind, Lookup, Node, Position, Score, Size
from qkv.terms.symbol import Symbol, index, node_of, size_of, where
from qkv.terms.trace import trace
from qkv.terms.values import evaluate
from tests.terms.graphs import environment

WEIGHTS = torch.linspace(0.5, 2.0, 40, dtype=torch.float64)
SCALE = torch.tensor(1.5, dtype=torch.float64)

# Written once, run on symbols and on tensors: both must give the same numbers.
WHOLE: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda i, j: i + j,
    "+ number": lambda i, j: 3 + i + 4 + j,
    "-": lambda i, j: i - j,
    "- number": lambda i, j: 3 - i - 4 - j,
    "*": lambda i, j: i * j * 2,
    "* number": lambda i, j: 2 * i + j,
    "//": lambda i, j: (i - j) // 4,
    "// number": lambda i, j: 100 // (i + 1) + j,
    "%": lambda i, j: (i - j) % 4,
    "% number": lambda i, j: 100 % (i + 1) + j,
    "**": lambda i, j: i**2 + j,
    "neg": lambda i, j: -i + +j,
    "abs": lambda i, j: abs(i - j),
    "method abs": lambda i, j: (i - j).abs(),
    "torch.abs": lambda i, j: torch.abs(i - j),
    "absolute": lambda i, j: torch.absolute(i - j),
    "torch.add": torch.add,
    "torch.sub": lambda i, j: torch.sub(i, j) + torch.subtract(i, j),
    "torch.mul": lambda i, j: torch.mul(i, j) + torch.multiply(i, j),
    "floor_divide": lambda i, j: torch.floor_divide(i, 3) + j,
    "div floor": lambda i, j: torch.div(i - j, 3, rounding_mode="floor"),
    "remainder": lambda i, j: torch.remainder(i - j, 5),
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "negative": lambda i, j: torch.negative(i) + torch.neg(j),
    "clamp": lambda i, j: (i - j).clamp(-2, 3),
    "clamp min": lambda i, j: (i - j).clamp(min=0),
    "clip max": lambda i, j: (i - j).clip(max=1),
    "torch.clamp": lambda i, j: torch.clamp(i - j, -2, 3),
    "torch.clamp names": lambda i, j: torch.clamp(i - j, min=-2),
    "torch.clip": lambda i, j: torch.clip(i - j, max=2),
    "torch.where": lambda i, j: torch.where(i > j, i, 2 * j),
    "to": lambda i, j: (i - j).to(torch.int64),
    "lookup": lambda i, j: TABLE[i, j],
    "lookup constant": lambda i, j: TABLE[3, j] + i,
    "lookup of lookup": lambda i, j: TABLE[TABLE[i, j] % 6, j],
}
TABLE = torch.arange(36).view(6, 6) * 5 % 17

TRUTH: dict[str, Callable[[Any, Any], Any]] = {
    "<": lambda i, j: i < j,
    "<=": lambda i, j: i <= j,
    ">": lambda i, j: i > j,
    ">=": lambda i, j: i >= j,
    "==": lambda i, j: i == j,
    "!=": lambda i, j: i != j,
    "reflected": lambda i, j: (3 > i) & (3 <= j),  # noqa: SIM300
    "torch comparisons": lambda i, j: torch.lt(i, j) | torch.ge(i, 4),
    "torch names": lambda i, j: torch.less_equal(i, j) & torch.not_equal(i, j) & torch.greater(j, 2) | torch.less(i, 1),
    "torch eq": lambda i, j: torch.eq(i, j) | torch.ne(i, 2) & torch.gt(i, 3),
    "torch ge": lambda i, j: torch.greater_equal(j, i) & torch.le(i, 1),
    "&": lambda i, j: (i < 3) & (j < 3),
    "|": lambda i, j: (i < 3) | (j < 3),
    "^": lambda i, j: (i < 3) ^ (j < 3),
    "~": lambda i, j: ~(i < 3) & (j > -1),
    "& True": lambda i, j: True & (i < j) & True,
    "| False": lambda i, j: False | (i < j),
    "^ True": lambda i, j: True ^ (i < j),
    "logical": lambda i, j: torch.logical_and(i < 3, j < 3) | torch.logical_xor(i < 2, torch.logical_not(j < 2)),
    "bitwise": lambda i, j: torch.bitwise_or(torch.bitwise_and(i < 3, j < 3), torch.bitwise_not(j < 2)),
    "bitwise xor": lambda i, j: torch.bitwise_xor(i < 2, j < 3),
    "logical_or": lambda i, j: torch.logical_or(i < 3, j < 3),
    "tensor on the left": lambda i, j: (TWO < i) & (TWO <= j) | (TWO == i),  # noqa: SIM300
    "tensor on the left, greater": lambda i, j: (TWO > i) & (TWO >= j) | (TWO != i),  # noqa: SIM300
    "tensor on the left of &": lambda i, j: YES & (i < j) | (NO ^ (i == j)),
}
TWO, YES, NO = torch.tensor(2), torch.tensor(True), torch.tensor(False)

REAL: dict[str, Callable[[Any, Any], Any]] = {
    "/": lambda i, j: (i + 1) / (j + 1),
    "/ number": lambda i, j: 1 / (i + 1) + j / 4,
    "torch.div": lambda i, j: torch.div(i, j + 1) + torch.divide(j, i + 1) + torch.true_divide(i, 3),
    "float": lambda i, j: (i - j).float().double() if isinstance(i, torch.Tensor) else (i - j).float(),
    "exp": lambda i, j: torch.exp(-((i - j).abs() * 0.5)),
    "methods": lambda i, j: (i * 0.5).exp() + (j + 1.0).log() + (i + 0.0).sqrt(),
    "more methods": lambda i, j: (j * 0.1).tanh() + (i * 0.1).sigmoid(),
    "functions": lambda i, j: torch.log(i + 1.0) + torch.sqrt(j + 0.0) + torch.tanh(i * 0.1) + torch.sigmoid(j * 0.1),
    "more functions": lambda i, j: torch.erf(i * 0.2) + torch.sin(j * 0.3) - torch.cos(i - j + 0.0),
    "pow": lambda i, j: torch.pow(i + 1.0, 0.5) + 2.0 ** (-0.5 * j),
    "power of two": lambda i, j: 2.0**-i + j,
    "0-d tensor": lambda i, j: SCALE * i + j * SCALE - SCALE / (i + 1) + SCALE**2 - j // SCALE + i % SCALE,
    "0-d tensor left": lambda i, j: torch.minimum(SCALE, i + 0.5) + torch.where(i > j, SCALE, j * SCALE),
    "numpy numbers": lambda i, j: np.float64(0.5) * i + j * np.float64(2.0) - np.int64(3),
    "lookup": lambda i, j: WEIGHTS[i * 6 + j] * (i - j),
}


def node(function: Callable[[Any, Any], Any], kind: Kind | None = None) -> Node:
    result = function(Symbol(Position("i")), Symbol(Position("j")))
    made = node_of(result)
    assert kind is None or made.kind is kind
    return made


def both(function: Callable[[Any, Any], Any], kind: Kind) -> None:
    env = environment(0, 5, 0, 5)
    made = trace(function, (Position("i"), Position("j")), kind) if kind is Kind.BOOL else _recorded(function)
    found = evaluate(made, env).broadcast_to(6, 6)
    i, j = torch.arange(6)[:, None], torch.arange(6)[None]
    expected = function(i, j).broadcast_to(6, 6)
    assert made.kind is kind
    if kind is Kind.FLOAT:
        torch.testing.assert_close(found, expected.double(), rtol=1e-5, atol=1e-7)
    else:
        assert torch.equal(found, expected)


def _recorded(function: Callable[[Any, Any], Any]) -> Node:
    """Through ``trace``, so that lookups are recorded, with the score multiplied by zero taken off again."""
    held: list[Node] = []

    def keep(i: Any, j: Any) -> Any:
        held.append(node_of(function(i, j)))
        return i < j

    trace(keep, (Position("i"), Position("j")), Kind.BOOL)
    return held[0]


@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers(name: str) -> None:
    both(WHOLE[name], Kind.INT)


@pytest.mark.parametrize("name", TRUTH)
def test_truth_values(name: str) -> None:
    both(TRUTH[name], Kind.BOOL)


@pytest.mark.parametrize("name", REAL)
def test_floats(name: str) -> None:
    both(REAL[name], Kind.FLOAT)


def test_a_wrong_recording_would_be_noticed() -> None:
    made = node_of(Symbol(Position("i")) - Symbol(Position("j")))
    found = evaluate(made, environment(0, 5, 0, 5))
    assert not torch.equal(found, torch.arange(6)[None] - torch.arange(6)[:, None])


def test_index_and_size() -> None:
    assert node_of(index("j")) == Index("j")
    assert node_of(size_of("h")) == Size("h")
    assert repr(index("j") < 4) == "Symbol((index(j) < 4))"


def test_zero_dimensional_tensors_stay_lookups() -> None:
    """So that their gradients flow and a later change of their value is seen."""
    made = node_of(SCALE)
    assert made == Lookup(Captured(SCALE), ())


def test_where_with_numbers() -> None:
    assert repr(where(Symbol(Position("i")) > 3, 1, 0.5)) == "Symbol(where(i > 3, 1, 0.5))"
    assert node_of(where(True, Symbol(Position("i")), 2)) == Position("i")


def test_mask_functions_written_for_index_tensors() -> None:
    i = Symbol(Position("i"))
    assert node_of(i.new_ones((), dtype=torch.bool)) == Constant(True)
    assert node_of(i.new_zeros((), dtype=torch.bool)) == Constant(False)
    assert (i < 3).to(i.device).node == (i < 3).node


I, J, S = Symbol(Position("i")), Symbol(Position("j")), Symbol(Score())  # noqa: E741

MESSAGES: dict[str, tuple[Callable[[], object], str, str]] = {
    "if": (
        lambda: 1 if I > J else 2,
        "`if`, `and`, `or`, `not` or a chained comparison asks for a value",
        "qkv.where(",
    ),
    "and": (lambda: (I > 0) and (J > 0), "value: (i > 0)", "(a) & (b)"),
    "or": (lambda: (I > 0) or (J > 0), "chained comparison", "(a) | (b)"),
    "not": (lambda: not (I > 0), "chained comparison", "~a"),
    "chain": (lambda: 0 <= I - J < 8, "value: ((i - j) >= 0)", "(0 <= i - j) & (i - j < 8)"),
    "min": (lambda: min(I, J), "recorded once, for all coordinates", "torch.minimum(a, b)"),
    "in": (lambda: I in (1, 2), "value: (i == 1)", "Write"),
    "math": (lambda: math.tanh(S), "float() or a function of `math`", "Write torch.tanh(score)"),
    "float": (lambda: float(I), "float() or a function of `math`", "value: i"),
    "int": (lambda: int(I), "int() asks for a value", "torch.floor(x), or x // 1"),
    "list": (lambda: [1, 2, 3][I], "an index into a list, or range()", "torch.tensor(values)"),
    "range": (lambda: range(I), "range()", "Index a torch tensor"),
    "iteration": (lambda: list(I), "iteration asks for a value", "A coordinate is one number here"),
    "len": (lambda: len(I), "len() asks for a value", "qkv.size_of(name)"),
    "getitem": (lambda: I[0], "indexing a coordinate or a score", "Index a captured tensor by coordinates"),
    "new_ones": (lambda: I.new_ones((3,)), "new_ones((3,)) asks for a value", "Only new_ones(())"),
    "new_zeros": (lambda: I.new_zeros((3,)), "new_zeros((3,)) asks for a value", "Only new_zeros(())"),
    "numbers &": (lambda: I & J, "`i` is a number, and & | ^ ~ combine truth values", "with parentheses"),
    "precedence": (lambda: I >= J & I - J < 8, "bind tighter than comparisons", "(i >= j) & (i - j < 8)"),
    "1 & truth": (lambda: 1 & (I < J), "`1` is a number", "truth values"),
    "~ number": (lambda: ~I, "`i` is a number", "truth values"),
    "string": (lambda: I + "a", "'a' (str) cannot take part", "Use numbers, coordinates, and tensors"),
    "None": (lambda: I + None, "None (NoneType) cannot take part", "Use numbers"),
    "complex": (lambda: I * 1j, "1j (complex) cannot take part", "Use numbers"),
    "tensor": (lambda: I + torch.zeros(3), "a tensor of shape (3,) stands in a function", "Index it by coordinates"),
    "tensor left": (lambda: torch.zeros(2, 3) * I, "a tensor of shape (2, 3) stands", "slope[h], table[h, i - j]"),
    "where number": (lambda: where(I, 1, 2), "where(): the condition `i` is a number", "x != 0"),
    "huge": (lambda: I < 2**63, "9223372036854775808 does not fit into 64 bits", "-2**63"),
    "// 0": (lambda: I // 0, "`i` is divided by 0", "no quotient and no remainder"),
    "% 0": (lambda: I % 0, "`i` is divided by 0", "no quotient and no remainder"),
    "unknown": (lambda: torch.erfinv(S), "torch function erfinv cannot be recorded", "Known: abs, absolute, add"),
    "keywords": (lambda: torch.add(I, J, alpha=2), "torch function add cannot be recorded", "Known: "),
    "sum": (lambda: torch.sum(I), "torch function sum cannot be recorded", "Known: "),
    "rounding": (lambda: torch.div(I, 2, rounding_mode="trunc"), 'div(rounding_mode="trunc")', "a // b"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(name: str) -> None:
    function, given, advice = MESSAGES[name]
    with pytest.raises(TraceError) as caught:
        function()
    assert given in str(caught.value)
    assert advice in str(caught.value)
    assert "\n  " in str(caught.value)


def test_symbols_are_not_hashable() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(I)
