"""Counting kept pairs, against evaluating every pair, and fast where blocks decide."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qkv.errors import CoordinateError, SpecError
from qkv.terms.count import count, count_cells
from qkv.terms.expr import Captured, Constant, Index, Kind, Lookup, Node, Position, Size, apply
from qkv.terms.symbol import where
from qkv.terms.trace import trace_named
from qkv.terms.values import Environment, evaluate
from tests.terms.graphs import environment, truths

PADDED = torch.rand(3, 700, generator=torch.Generator().manual_seed(0)) > 0.3
DOCUMENTS = torch.arange(700) // 37
SHUFFLED = DOCUMENTS[torch.randperm(700, generator=torch.Generator().manual_seed(0))]
BLOCKS = torch.rand(24, 24, generator=torch.Generator().manual_seed(0)) > 0.5

MASKS: dict[str, Callable[..., object]] = {
    "causal": lambda i, j: j <= i,
    "anticausal": lambda i, j: j > i,
    "window": lambda i, j: (j <= i) & (i - j < 70),
    "band": lambda i, j: abs(i - j) < 50,
    "prefix": lambda i, j: (j <= i) | (j < 90),
    "dilated": lambda i, j: (i - j) % 3 == 0,
    "dilated causal": lambda i, j: (j <= i) & ((2 * i - 2 * j) % 6 == 0),
    "blocks": lambda i, j: i // 100 == j // 100,
    "documents": lambda i, j: (DOCUMENTS[i] == DOCUMENTS[j]) & (j <= i),
    "shuffled documents": lambda i, j: (SHUFFLED[i] == SHUFFLED[j]) & (j <= i),
    "padding": lambda j: PADDED[1, j],
    "rows": lambda i: i % 2 == 0,
    "padded causal": lambda i, j: (j <= i) & PADDED[2, j],
    "two paddings": lambda i, j: PADDED[2, j] & PADDED[1, i],
    "block table": lambda i, j: BLOCKS[i // 32, j // 32],
    "not": lambda i, j: ~((j <= i) & (i - j < 30)) ^ (j % 5 == 0),
    "product": lambda i, j: (i * j) % 7 == 0,
    "select": lambda i, j: where(i < 200, j <= i, j >= 650),
    "floats": lambda i, j: (i * 0.5 - j * 0.5) < 3.5,
    "nothing": lambda i, j: (j < i) & (i < j),
    "index": lambda i, j: trace_index("i") >= j,
}


def trace_index(name: str) -> object:
    from qkv.terms.symbol import index

    return index(name)


def graph(name: str) -> Node:
    return trace_named(MASKS[name], Kind.BOOL)[1]


def slowly(node: Node, num_queries: int, num_keys: int, offset: int) -> int:
    i, j = torch.arange(num_queries)[:, None], torch.arange(num_keys)[None]
    sizes = {"i": num_queries, "j": num_keys}
    environment = Environment({"i": i, "j": j}, {"i": i + offset, "j": j}, sizes, torch.float64, torch.device("cpu"))
    return int(evaluate(node, environment).broadcast_to(num_queries, num_keys).sum())


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize(
    ("num_queries", "num_keys", "offset"),
    [(1, 1, 0), (1, 700, 600), (700, 1, 0), (64, 64, 0), (65, 63, 5), (257, 640, 0), (300, 700, 400), (640, 257, 0)],
)
def test_equals_counting_each_pair(name: str, num_queries: int, num_keys: int, offset: int) -> None:
    node = graph(name)
    found = count(node, query="i", key="j", num_queries=num_queries, num_keys=num_keys, offset=offset)
    assert found == slowly(node, num_queries, num_keys, offset)


def test_closed_forms() -> None:
    for n in (1, 63, 64, 65, 1000, 4097):
        assert count(graph("causal"), query="i", key="j", num_queries=n, num_keys=n) == n * (n + 1) // 2
        assert count(graph("anticausal"), query="i", key="j", num_queries=n, num_keys=n) == n * (n - 1) // 2
        whole = count(Constant(True), query="i", key="j", num_queries=n, num_keys=n + 1)
        assert whole == n * (n + 1)
        assert count(Constant(False), query="i", key="j", num_queries=n, num_keys=n) == 0


def test_a_wrong_count_is_noticed() -> None:
    """Shows that the comparison can fail: one key more or less changes the number."""
    assert count(graph("window"), query="i", key="j", num_queries=300, num_keys=300) != slowly(
        graph("window"), 300, 299, 0
    )


def test_empty_axes() -> None:
    assert count(graph("causal"), query="i", key="j", num_queries=0, num_keys=9) == 0
    assert count(graph("causal"), query="i", key="j", num_queries=9, num_keys=0) == 0


LENGTH = 131072
LONG_DOCUMENTS = torch.arange(LENGTH) // 777
LONG_PADDING = torch.rand(LENGTH, generator=torch.Generator().manual_seed(0)) > 0.3


@pytest.mark.parametrize(
    ("name", "keep"),
    {
        "causal": lambda i, j: j <= i,
        "window": lambda i, j: (j <= i) & (i - j < 4096),
        "prefix": lambda i, j: (j <= i) | (j < 1000),
        "dilated": lambda i, j: (j <= i) & ((i - j) % 4 == 0),
        "documents": lambda i, j: (j <= i) & (LONG_DOCUMENTS[i] == LONG_DOCUMENTS[j]),
        "padding": lambda i, j: (j <= i) & LONG_PADDING[j],
        "padded window": lambda i, j: (j <= i) & (i - j < 4096) & LONG_PADDING[j],
    }.items(),
)
def test_long_masks_are_quick(name: str, keep: Callable[..., object]) -> None:
    node = trace_named(keep, Kind.BOOL)[1]
    began = time.process_time()
    found = count(node, query="i", key="j", num_queries=LENGTH, num_keys=LENGTH)
    assert time.process_time() - began < 2.0, "usually well under 0.2 s"
    kept = LONG_PADDING.long()
    before = kept.cumsum(0)
    windowed = before - torch.nn.functional.pad(before, (4096, 0))[:LENGTH]
    n = LENGTH
    assert (
        found
        == {
            "causal": n * (n + 1) // 2,
            "window": 4096 * n - 4096 * 4095 // 2,
            "prefix": n * (n + 1) // 2 + 1000 * 999 // 2,
            "dilated": int((torch.arange(n) // 4 + 1).sum()),
            "documents": int(sum(c * (c + 1) // 2 for c in LONG_DOCUMENTS.bincount().tolist())),
            "padding": int(before.sum()),
            "padded window": int(windowed.sum()),
        }[name]
    )


def test_other_coordinates_and_sizes() -> None:
    by_batch = trace_named(lambda b, i, j: (j <= i) & PADDED[b, j], Kind.BOOL)[1]
    for b in range(3):
        found = count(by_batch, query="i", key="j", num_queries=50, num_keys=60, offset=10, at={"b": b})
        rows = torch.arange(50)[:, None] + 10
        assert found == int(((torch.arange(60) <= rows) & PADDED[b, :60]).sum())
    with pytest.raises(CoordinateError, match=r'depends on "b"') as caught:
        count(by_batch, query="i", key="j", num_queries=5, num_keys=5)
    assert 'at={"b": 0}' in str(caught.value)
    sized = apply("lt", Position("j"), apply("sub", Size("j"), Size("h")))
    assert count(sized, query="i", key="j", num_queries=2, num_keys=9, sizes={"h": 4}) == 10
    with pytest.raises(CoordinateError, match=r'depends on "h"') as caught:
        count(sized, query="i", key="j", num_queries=2, num_keys=9)
    assert 'sizes={"h": 8}' in str(caught.value)
    with pytest.raises(SpecError, match="count of -1 queries and 5 keys"):
        count(sized, query="i", key="j", num_queries=-1, num_keys=5)


def test_index_and_position_differ_by_the_offset() -> None:
    node = apply("le", Position("j"), Index("i"))
    assert count(node, query="i", key="j", num_queries=4, num_keys=9, offset=5) == 10
    node = apply("le", Position("j"), Position("i"))
    assert count(node, query="i", key="j", num_queries=4, num_keys=9, offset=5) == 6 + 7 + 8 + 9


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 60), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_random_bands(num_queries: int, num_keys: int, offset: int, width: int, step: int) -> None:
    i, j = Position("i"), Position("j")
    near = apply("lt", apply("abs", apply("sub", i, j)), Constant(width))
    table = Captured(torch.arange(300) % step == 0)
    for node in (
        apply("or", near, apply("eq", apply("mod", j, Constant(step)), Constant(0))),
        apply("and", apply("not", near), Lookup(table, (j,))),
        apply("xor", Lookup(table, (i,)), apply("lt", apply("mul", i, Constant(2)), j)),
    ):
        found = count(node, query="i", key="j", num_queries=num_queries, num_keys=num_keys, offset=offset)
        assert found == slowly(node, num_queries, num_keys, offset)


@given(truths(), st.integers(1, 70), st.integers(1, 70), st.integers(-5, 5))
@settings(max_examples=60)
def test_random_graphs(node: Node, num_queries: int, num_keys: int, offset: int) -> None:
    """In one piece and by cells; splitting begins at 64."""
    expected = slowly(node, num_queries, num_keys, offset)
    arguments = {"query": "i", "key": "j", "num_queries": num_queries, "num_keys": num_keys, "offset": offset}
    assert count(node, **arguments) == expected
    cells = count_cells(node, **arguments, cell=(7, 3))
    assert cells.shape == (-(-num_queries // 7), -(-num_keys // 3))
    assert cells.sum() == expected
    assert cells[-1, -1] == slowly_between(
        node, num_queries, num_keys, offset, (cells.shape[0] - 1) * 7, (cells.shape[1] - 1) * 3
    )


def slowly_between(node: Node, num_queries: int, num_keys: int, offset: int, first_q: int, first_k: int) -> int:
    env = environment(first_q + offset, num_queries - 1 + offset, first_k, num_keys - 1)
    return int(evaluate(node, env).broadcast_to(num_queries - first_q, num_keys - first_k).sum())


def test_cells_of_a_mask() -> None:
    cells = count_cells(graph("causal"), query="i", key="j", num_queries=5, num_keys=6, cell=(2, 3))
    assert cells.tolist() == [[3, 0], [6, 1], [3, 2]]
