"""Checking takes steps in proportion to the lines of a text; steps are lines of Python that run, not seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

import qkv


def one_long(lines: int) -> str:
    """One function of many lets."""
    lets = [
        f"    let s{n}[q, k] = sum[c](A[q, c] * B[k, c]) + s{n - 1}[q, k] * 2;\n"
        if n
        else "    let s0[q, k] = 1.0 * q * k;\n"
        for n in range(lines)
    ]
    return (
        f"fn f[q, k, c](A: [f32; q, c], B: [f32; k, c]) -> [f32; q, k] {{\n{''.join(lets)}    s{lines - 1}[q, k]\n}}\n"
    )


def many_short(lines: int) -> str:
    """Many functions of one line."""
    one = "fn f{n}[q, k, c](A: [f32; q, c], B: [f32; k, c]) -> [f32; q, k] {{\n    sum[c](A[q, c] * B[k, c])\n}}\n"
    return "".join(one.format(n=n) for n in range(lines // 3))


def attention(lines: int) -> str:
    """Many attentions, whose roles are checked, each called by the next line."""
    one = """fn f{n}[q, k, d](Q: [f32; q, d], K: [f32; k, d]) -> [f32; q, d] {{
    let s[q, k] = sum[d](Q[q, d] * K[k, d]) / d ** 0.5;
    sum[k](softmax[k](s[q, k] where k <= q) * K[k, d])
}}
fn g{n}[q, d](X: [f32; q, d]) -> [f32; q, d] {{ f{n}[q, q, d](X, X) }}
"""
    return "".join(one.format(n=n) for n in range(lines // 5))


def chain(lines: int) -> str:
    """Functions of which each calls the one before."""
    calls = [f"fn f{n}[q](x: [f32; q]) -> [f32; q] {{ f{n - 1}[q](x) }}\n" for n in range(1, lines)]
    return "fn f0[q](x: [f32; q]) -> [f32; q] { exp(x) }\n" + "".join(calls)


def outside(lines: int) -> str:
    """Lets outside functions, each of the one before."""
    lets = [f"let s{n}[q, c] = s{n - 1}[q, c] * 2;\n" for n in range(1, lines)]
    return "let A: [f32; q, c];\nlet s0[q, c] = A[q, c];\n" + "".join(lets)


def wrong(lines: int) -> str:
    """A mistake in every function."""
    return many_short(lines).replace("B[k, c])", "B[q, c])")


def lines_run(function: Callable[[], object]) -> int:
    """How many lines of Python a call runs."""
    count = 0

    def trace(_: FrameType, event: str, __: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def steps(text: str) -> int:
    """How many lines of Python checking a text runs."""
    return lines_run(lambda: qkv.ein.check(text))


@pytest.mark.parametrize("shape", [one_long, many_short, attention, chain, outside, wrong])
def test_steps_grow_as_lines_do(shape: Callable[[int], str]) -> None:
    steps(shape(20))  # what is loaded once is no part of it
    few, many = steps(shape(150)), steps(shape(600))
    assert 3.5 * few < many < 4.6 * few, f"{many / few:.2f} times the steps for four times the lines"


def test_the_count_tells_what_is_not_linear() -> None:
    def quadratic(n: int) -> None:
        for _ in range(n):
            for _ in range(n):
                pass

    assert lines_run(lambda: quadratic(80)) > 12 * lines_run(lambda: quadratic(20))
