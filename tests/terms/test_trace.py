"""Recording functions: where tensors may come from, what parameters mean, and every message."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from transformers import masking_utils

from qkv.errors import LimitError, TraceError
from qkv.terms.expr import Captured, Constant, Kind, Lookup, Node, Position, Score, captured_in, describe
from qkv.terms.trace import name_of, parameters, trace, trace_named
from qkv.terms.values import evaluate
from tests.terms.graphs import environment

GLOBAL = torch.arange(20) // 4
SLOPE = torch.tensor([0.5, 0.25])


def keep(function: Any) -> Node:
    return trace_named(function, Kind.BOOL)[1]


def score(function: Any) -> Node:
    return trace_named(function, Kind.FLOAT)[1]


def test_parameters_are_coordinates() -> None:
    names, node = trace_named(lambda batch, row, column: (row >= column) & (batch < 2), Kind.BOOL)
    assert names == ("batch", "row", "column")
    assert describe(node) == "((row >= column) & (batch < 2))"


def test_score_is_the_score_of_score_functions_only() -> None:
    assert score(lambda score, h, i, j: score - (i - j)) == score(lambda score, i, j: score - (i - j))
    assert Score() in [score(lambda score: score)]
    assert keep(lambda score: score > 3) == keep(lambda score: score > 3)
    assert describe(keep(lambda score: score > 3)) == "(score > 3)"  # a coordinate of that name
    assert Position("score") in [keep(lambda score: score > 3).operands[0]]  # type: ignore[union-attr]


def test_tensors_from_closures_globals_and_attributes() -> None:
    inner = torch.arange(20) % 3

    class Mask:
        def __init__(self) -> None:
            self.table = torch.eye(20, dtype=torch.bool)

        def visible(self, i: Any, j: Any) -> Any:
            return self.table[i, j] | (GLOBAL[i] == GLOBAL[j]) & (inner[i] != 1)

    mask = Mask()
    for function in (mask.visible, lambda i, j: ~~mask.visible(i, j), functools.partial(Mask.visible, mask)):
        node = keep(function)
        assert {c.tensor.data_ptr() for c in captured_in(node)} == {t.data_ptr() for t in (mask.table, GLOBAL, inner)}
        found = evaluate(node, environment(0, 19, 0, 19))
        i, j = torch.arange(20)[:, None], torch.arange(20)[None]
        assert torch.equal(found, mask.visible(i, j))


def test_a_module_with_parameters() -> None:
    class Decay(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slope = torch.nn.Parameter(torch.ones(4))

        def forward(self, score: Any, h: Any, i: Any, j: Any) -> Any:
            return score - torch.exp(self.slope[h]) * (i - j).abs()

    module = Decay()
    names, node = trace_named(module.forward, Kind.FLOAT)
    assert names == ("score", "h", "i", "j")
    (table,) = captured_in(node)
    assert table.tensor is module.slope


def test_computing_with_plain_tensors_inside_is_not_recorded() -> None:
    node = keep(lambda i, j: (torch.arange(20) * 2 + 1)[i] > j)
    (table,) = captured_in(node)
    assert table.tensor.tolist() == list(range(1, 41, 2))


def test_tensors_on_the_left() -> None:
    limit = torch.tensor(3)
    node = keep(lambda i, j: (limit > i - j) & (limit != j))
    assert captured_in(node) == (Captured(limit),)
    assert describe(node) == "((tensor[] > (i - j)) & (tensor[] != j))"
    i, j = torch.arange(6)[:, None], torch.arange(6)[None]
    assert torch.equal(evaluate(node, environment(0, 5, 0, 5)), (i - j < 3) & (j != 3))


def test_indexing_by_constants_and_symbols() -> None:
    table = torch.arange(12).view(3, 4)
    assert keep(lambda i, j: table[1, j] > i).operands[0] == Lookup(Captured(table), (Constant(1), Position("j")))  # type: ignore[union-attr]
    assert keep(lambda i, j: table[1][j] > i) != keep(lambda i, j: table[2][j] > i)
    whole = torch.tensor(2)
    assert keep(lambda i, j: table[whole, j] > i).operands[0].indices[0] == Lookup(Captured(whole), ())  # type: ignore[union-attr]


@pytest.mark.parametrize("length", [7, 12])
def test_mask_functions_of_transformers(length: int) -> None:
    """Each is recorded as it is and gives what it gives on index tensors."""
    padding = torch.rand(2, length) > 0.3
    packed = torch.arange(length).expand(2, -1) // 4
    within = torch.arange(length).expand(2, -1) % 4
    groups = torch.tensor([-1, 0, 0, 1]).repeat(4)[:length].expand(2, -1)
    m = masking_utils
    functions = {
        "causal": m.causal_mask_function,
        "bidirectional": m.bidirectional_mask_function,
        "window": m.sliding_window_causal_mask_function(3),
        "two-sided": m.sliding_window_bidirectional_mask_function(2),
        "chunked": m.chunked_causal_mask_function(3, torch.tensor([0, 2])),
        "padding": m.and_masks(m.causal_mask_function, m.padding_mask_function(padding)),
        "packed": m.packed_sequence_compatibility_function(m.causal_mask_function, within, packed),
        "blockwise": m.or_masks(m.causal_mask_function, m.blockwise_overlay(groups)),
        "offset": m.add_offsets_to_mask_function(m.sliding_window_causal_mask_function(4), 3, 0),
    }
    b, h = torch.arange(2)[:, None, None, None], torch.arange(1)[:, None, None]
    i, j = torch.arange(length)[:, None], torch.arange(length)
    env = environment(0, length - 1, 0, length - 1)
    env.positions = {"b": b, "h": h, "i": i, "j": j}
    arguments = tuple(Position(n) for n in ("b", "h", "i", "j"))
    for name, function in functions.items():
        found = evaluate(trace(function, arguments, Kind.BOOL), env)
        expected = function(b, h, i, j)
        assert torch.equal(found.broadcast_to(2, 1, length, length), expected.broadcast_to(2, 1, length, length)), name
    assert not env.outside or not any(bool(where.any()) for _, where in env.outside)


def test_names_of_functions() -> None:
    def inner(i: Any, j: Any) -> Any:
        return i > j

    assert name_of(inner) == "function inner"
    assert name_of(lambda i: i) == "the lambda"
    assert name_of(functools.partial(inner, 1)) == "function partial"


def nothing(i: Any, j: Any) -> Any:
    del i, j


EMPTY: list[int] = []
MESSAGES: dict[str, tuple[Any, str, str]] = {
    "default": (lambda i, j=3: i > j, "parameter `j=3` of the lambda is not a plain one", "capture other values"),
    "star": (lambda *i: i[0] > 1, "parameter `*i` of the lambda", "Parameters name coordinates"),
    "keywords": (lambda i, **j: i > 1, "parameter `**j` of the lambda", "Parameters name coordinates"),
    "keyword only": (lambda i, *, j: i > j, "parameter `j` of the lambda", "Parameters name coordinates"),
    "no signature": (max, "has no readable signature", "lambda i, j: f(i, j)"),
    "nothing": (nothing, "function nothing returns nothing", "A def needs a return"),
    "number": (lambda i, j: i - j, "returns a whole number, and keep needs a truth value", "Compare: i - j < 8"),
    "float": (lambda i, j: i / j, "the lambda returns a float", "True means that the key is kept"),
    "list": (lambda i, j: [i, j], "(list) cannot take part", "Use numbers, coordinates"),
    "type error": (lambda i, j: len(3), "the lambda failed while it was recorded: TypeError", "parameters are symbols"),
    "attribute": (
        lambda i, j: i.cumsum(0) > j,
        "AttributeError: 'Symbol' object has no attribute",
        "pointwise",
    ),
    "index": (lambda i, j: EMPTY[5] > i, "IndexError", "tensors (no lists, no numpy arrays) indexed by coordinates"),
    "numpy": (lambda i, j: ARRAY[i] > j, "IndexError: only integers", "no numpy arrays"),
    "round": (lambda i, j: round(i / 2) > j, "TypeError: type Symbol doesn't define __round__", "Its parameters"),
    "axes": (lambda i, j: GRID[i] > j, "a captured tensor of 2 axes, shape (3, 4), is indexed by 1", "for each axis"),
    "slice": (lambda i, j: GRID[i, :] > j, "slice(None, None, None) (slice) cannot take part", "Use numbers"),
    "none": (lambda i, j: SLOPE[None, i] > j, "of 1 axes, shape (2,), is indexed by 2", "slices and None"),
    "float index": (lambda i, j: SLOPE[i / 2] > j, "`(i / 2)` indexes a tensor, and is a float.", "torch.floor(x)"),
    "truth index": (lambda i, j: SLOPE[i > j] > 0, "indexes a tensor, and is a truth value", "whole number"),
    "branch": (lambda i, j: i if i > j else j, "`if`, `and`, `or`, `not`", "qkv.where(condition, a, b)"),
}
ARRAY = np.arange(5)
GRID = torch.zeros(3, 4)


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(name: str) -> None:
    function, given, advice = MESSAGES[name]
    with pytest.raises(TraceError) as caught:
        keep(function)
    assert given in str(caught.value)
    assert advice in str(caught.value)
    assert "\n  " in str(caught.value)


def test_messages_of_score_functions() -> None:
    with pytest.raises(TraceError, match="returns a truth value, and score needs a number") as caught:
        score(lambda score, i, j: i > j)
    assert "keep=qkv.keep(...)" in str(caught.value)
    for unused in (lambda score, i, j: 3.0, lambda score, i: SLOPE[i], lambda score, i, j: SLOPE[i] * (i - j)):
        with pytest.raises(TraceError, match="the lambda does not use the score it is given") as caught:
            score(unused)
        assert "lambda score, h, i, j: score - slope[h] * (i - j)" in str(caught.value)


def test_the_cause_is_kept() -> None:
    with pytest.raises(TraceError) as caught:
        keep(lambda i, j: EMPTY[5] > i)
    assert isinstance(caught.value.__cause__, IndexError)


def test_a_loop_that_is_too_long() -> None:
    def walk(i: Any, j: Any) -> Any:
        total = i
        for n in range(10_000):
            total = total + GLOBAL[j] * n
        return total > 3

    with pytest.raises(LimitError, match="Was a loop unrolled"):
        keep(walk)


def test_unrelated_errors_pass() -> None:
    def broken(i: Any, j: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep(broken)


def test_parameters() -> None:
    assert parameters(lambda: None) == ()
    assert parameters(nothing) == ("i", "j")
