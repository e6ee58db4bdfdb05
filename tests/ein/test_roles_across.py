"""Attention's roles are checked where calls stand between scores, weights and the sum; what is meant is left alone."""

from __future__ import annotations

import pytest
import torch

import qkv

SCORES = """fn scores[q, k, d](Q: [float; ..b, q, d], K: [float; ..b, k, d]) -> [float; ..b, q, k] {
    sum[d](Q[..b, q, d] * K[..b, k, d]) / d ** 0.5
}
"""
WEIGHTS = "fn weights[q, k](s: [float; ..b, q, k]) -> [float; ..b, q, k] { softmax[k](s[..b, q, k]) }\n"
MIX = """fn mix[q, k, e](w: [float; ..b, q, k], V: [float; ..b, k, e]) -> [float; ..b, q, e] {
    sum[k](w[..b, q, k] * V[..b, k, e])
}
"""
LATER = "fn later[q, k](s: [float; ..b, q, k]) -> [float; ..b, q, k] { if q <= k { s[..b, q, k] } else { -inf } }\n"
HEAD = """fn f[q, k, d, e](Q: [float; ..b, q, d], K: [float; ..b, k, d], V: [float; ..b, k, e]) -> [float; ..b, q, e] {
"""
PARTS = SCORES + WEIGHTS + MIX + LATER


def told(body: str, *, head: str = HEAD, parts: str = PARTS) -> list[tuple[str, int]]:
    """The codes of the errors, and their lines counted from the head of ``f``."""
    text = f"{parts}{head}{body}\n}}\n"
    first = parts.count("\n")
    return [(d["code"], d["line"] - first) for d in qkv.ein.check(text) if d["severity"] == "error"]


RIGHT = {
    "all in functions": "    mix[q, k, e](weights[q, k](scores[q, k, d](Q, K)), V)",
    "softmax here": "    mix[q, k, e](softmax[k](scores[q, k, d](Q, K)), V)",
    "sum here": "    sum[k](weights[q, k](scores[q, k, d](Q, K)) * V[..b, k, e])",
    "meant, softmax here": "    mix[q, k, e](softmax[q] as given(scores[q, k, d](Q, K)), V)",
    "the past, told by its arguments": (
        "    mix[q, k, e](weights[q, k](later[q = k, k = q](scores[q, k, d](Q, K))), V)"
    ),
}

WRONG = {
    "softmax of a function over the query": (
        "    let w[..b, k, q] = weights[q = k, k = q](scores[q, k, d](Q, K));\n    sum[k](w[..b, k, q] * V[..b, k, e])",
        3,
    ),
    "softmax here over the query, sum in a function": (
        "    let w[..b, q, k] = softmax[q](scores[q, k, d](Q, K));\n    mix[q, k, e](w, V)",
        3,
    ),
    "both in functions": ("    mix[q, k, e](weights[q = k, k = q](scores[q, k, d](Q, K)), V)", 2),
    "the mask of a function keeps the future": (
        "    mix[q, k, e](weights[q, k](later[q, k](scores[q, k, d](Q, K))), V)",
        2,
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_not_told(name: str) -> None:
    assert told(RIGHT[name]) == []


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_role_is_told_at_the_call_that_shows_it(name: str) -> None:
    body, line = WRONG[name]
    assert told(body) == [("wrong-role", line)]


def test_scores_of_a_function_that_contract_over_the_heads() -> None:
    parts = """fn all_heads[h, q, k, d](Q: [f32; h, q, d], K: [f32; h, k, d]) -> [f32; q, k] {
    sum[h, d](Q[h, q, d] * K[h, k, d])
}
"""
    head = "fn f[h, q, k, d, e](Q: [f32; h, q, d], K: [f32; h, k, d], V: [f32; h, k, e]) -> [f32; h, q, e] {\n"
    body = "    sum[k](softmax[k](all_heads[h, q, k, d](Q, K)) * V[h, k, e])"
    assert told(body, head=head, parts=parts) == [("wrong-role", 2)]
    shown = qkv.ein.report(f"{parts}{head}{body}\n}}\n")
    assert "scores contract over h, which the values have too" in shown
    assert "write: sum[d](...): d stands in queries and keys alone" in shown


def test_a_function_between_does_not_hide_it() -> None:
    inner = "fn turned[q, k](s: [float; ..b, q, k]) -> [float; ..b, q, k] { weights[q = k, k = q](s) }\n"
    assert told("    mix[q, k, e](turned[q, k](scores[q, k, d](Q, K)), V)", parts=PARTS + inner) == [("wrong-role", 2)]


def test_a_function_that_stands_below_is_known() -> None:
    text = f"{HEAD}    mix[q, k, e](softmax[q](scores[q, k, d](Q, K)), V)\n}}\n{SCORES}{MIX}"
    assert [d["code"] for d in qkv.ein.check(text) if d["severity"] == "error"] == ["wrong-role"]


def test_outside_functions() -> None:
    head = "let Q: [f32; q, d];\nlet K: [f32; k, d];\nlet V: [f32; k, e];\n"
    text = f"{PARTS}{head}let o[q, e] = mix[q, k, e](softmax[q](scores[q, k, d](Q, K)), V);\n"
    assert [d["code"] for d in qkv.ein.check(text) if d["severity"] == "error"] == ["wrong-role"]
    right = text.replace("softmax[q]", "softmax[k]")
    assert [d for d in qkv.ein.check(right) if d["severity"] == "error"] == []


@pytest.mark.parametrize("formals", ["q, k, d", "k, q, d"])
def test_self_attention_through_two_functions_keeps_query_and_key_apart(formals: str) -> None:
    text = f"""{PARTS}fn g[{formals}](Q: [float; ..b, q, d], K: [float; ..b, k, d]) -> [float; ..b, q, d] {{
    mix[q, k, d](weights[q, k](scores[q, k, d](Q, K)), K)
}}
fn f[s, c](X: [float; ..b, s, c]) -> [float; ..b, s, c] {{ g[s, s, c](X, X) }}
"""
    assert [d for d in qkv.ein.check(text) if d["severity"] == "error"] == []
    x = torch.randn(5, 4, dtype=torch.float64)
    expected = (x @ x.T / 2).softmax(-1) @ x
    torch.testing.assert_close(qkv.ein.source(text).f(x), expected)


def test_functions_of_the_library_raise_no_false_alarm() -> None:
    text = f"use std::linear;\nuse std::attention;\n{MIX}{HEAD}    scaled_dot_product[q, k, d, e](Q, K, V)\n}}\n"
    assert [d for d in qkv.ein.check(text) if d["severity"] == "error"] == []
