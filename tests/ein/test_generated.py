"""Programs made from the grammar, valid by construction: their names mean the same wherever they stand.

An expression over coordinates is drawn with the coordinates that it has, so that the checker must accept it.
"""

from __future__ import annotations

import re

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qkv

PARAMETERS = {"A": ("q", "k"), "B": ("k", "c"), "C": ("q",), "D": ("q", "k", "c")}
SIZES = {"q": 3, "k": 4, "c": 2}


@st.composite
def expressions(draw: st.DrawFn, coords: tuple[str, ...], depth: int) -> str:
    """An expression that has all of ``coords`` and no others, bounded for any input in [-1, 1]."""
    leaves = [n for n, own in PARAMETERS.items() if set(own) <= set(coords)]
    lacking = [c for c in SIZES if c not in coords]
    kinds = ["leaf"] if depth == 0 else ["leaf", "sum", "difference", "product", "map", "choice", "softmax", "cumsum"]
    kinds += ["reduce"] if depth and lacking else []
    kind = draw(st.sampled_from(kinds))
    below = expressions(coords, max(depth - 1, 0))
    if kind == "leaf":
        parts = (
            [f"{n}[{', '.join(PARAMETERS[n])}]" for n in draw(st.lists(st.sampled_from(leaves), max_size=2))]
            if leaves
            else []
        )
        covered = {c for n in leaves for c in PARAMETERS[n] if any(p.startswith(f"{n}[") for p in parts)}
        # an index has its coordinate as a tensor has
        return " * ".join([*parts, *(f"tanh({c} as f64)" for c in coords if c not in covered)]) or "0.5"
    if kind == "reduce":
        over = draw(st.sampled_from(lacking))
        inner = draw(expressions((*coords, over), depth - 1))
        name = draw(st.sampled_from(["sum", "max", "min", "mean", "logsumexp"]))
        mask = draw(st.sampled_from(["", f" where {over} >= 0", f" where {over} != 0"])) if name == "sum" else ""
        return f"{name}[{over}]({inner}{mask})"
    if kind in ("softmax", "cumsum") and coords:
        return f"{kind}[{draw(st.sampled_from(coords))}]({draw(below)})"
    first = draw(below)
    if kind == "map":
        return f"{draw(st.sampled_from(['tanh', 'sin', 'sigmoid', 'abs', 'relu']))}({first})"
    if kind == "choice":
        return f"(if {draw(below)} < 0.1 {{ {first} }} else {{ {draw(below)} }})"
    sign = {"sum": "+", "difference": "-"}.get(kind, "*")
    return f"({first} {sign} {draw(below)})"


@st.composite
def programs(draw: st.DrawFn) -> tuple[str, tuple[str, ...]]:
    """A function of all parameters, one part of it named, and the coordinates of its result."""
    coords = draw(st.sampled_from([("q",), ("q", "k"), ("k", "c"), ("q", "k", "c")]))
    body, part = draw(expressions(coords, 3)), draw(expressions(coords, 2))
    given = ", ".join(f"{n}: [f64; {', '.join(c)}]" for n, c in PARAMETERS.items())
    shown = ", ".join(coords)
    text = f"fn f[q, k, c]({given}) -> [f64; {shown}] {{\n    let part[{shown}] = {part};\n"
    return f"{text}    ({body}) + part[{shown}]\n}}\n", coords


def arguments(sizes: dict[str, int]) -> dict[str, torch.Tensor]:
    numbers = torch.Generator().manual_seed(5)
    return {
        n: torch.rand([sizes[c] for c in own], generator=numbers, dtype=torch.float64) * 2 - 1
        for n, own in PARAMETERS.items()
    }


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(programs(), st.data())
def test_a_generated_program_means_what_its_names_say(made: tuple[str, tuple[str, ...]], data: st.DataObject) -> None:
    text, coords = made
    errors = [d for d in qkv.ein.check(text) if d["severity"] == "error"]
    assert not errors, f"{text}\n{errors}"
    given_ = arguments(SIZES)
    expected = qkv.ein.source(text).f(**given_)
    assert expected.shape == tuple(SIZES[c] for c in coords)

    printed = qkv.ein.fmt(text)
    assert qkv.ein.fmt(printed) == printed
    same(qkv.ein.source(printed).f(**given_), expected)

    order = data.draw(st.permutations(PARAMETERS["D"]))
    moved = text.replace("D: [f64; q, k, c]", f"D: [f64; {', '.join(order)}]")
    moved = re.sub(r"D\[q, k, c\]", f"D[{', '.join(order)}]", moved)
    laid = given_["D"].permute([PARAMETERS["D"].index(c) for c in order])
    same(qkv.ein.source(moved).f(**{**given_, "D": laid}), expected)

    renamed = re.sub(r"\b[qkc]\b", lambda m: {"q": "row", "k": "col", "c": "k"}[m[0]], text)
    same(qkv.ein.source(renamed).f(**given_), expected)

    equal = arguments(dict.fromkeys(SIZES, 3))
    assert qkv.ein.source(text).f(**equal).shape == (3,) * len(coords)
    wrong = text.replace("C: [f64; q]", "C: [f64; k]")
    if "C[q]" in text:  # refused although every size fits
        assert {d["code"] for d in qkv.ein.check(wrong) if d["severity"] == "error"} >= {"wrong-coordinate"}
