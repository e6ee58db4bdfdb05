"""Golden programs: what is right runs and keeps its meaning under rewriting; what is wrong is told in eight lines."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import torch

import qkv
from qkv.ein import tree
from qkv.ein.parser import parse
from qkv.ein.printer import printed
from qkv.ein.report import CODES, Report, Source
from qkv.ein.sample import arguments

FOLDER = Path(__file__).with_name("golden")
VALID = (FOLDER / "valid.txt").read_text(encoding="utf-8").strip().split("\n\n----\n")
SIZES = {"m": 64}
RENAMED = {"m": 64}
INVALID = (FOLDER / "invalid.txt").read_text(encoding="utf-8").strip().split("\n\n----\n")


def parsed(text: str) -> tree.Tree:
    report = Report(Source(text))
    return parse(report.source, report)[0]


def bare(node: object) -> object:
    """A tree without its places."""
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        kept = [f for f in node._fields if not f.endswith("span") and f != "spans"]  # type: ignore[attr-defined]
        return (type(node).__name__, *(bare(getattr(node, f)) for f in kept))
    return tuple(map(bare, node)) if isinstance(node, tuple) else node


def last(module: qkv.ein.Module) -> object:
    return module[list(module)[-1]]


def test_there_are_enough_of_them() -> None:
    assert len(VALID) >= 150 and len(set(VALID)) == len(VALID)
    assert len(INVALID) >= 150 and len(set(INVALID)) == len(INVALID)
    assert {re.match(r"// expect: (\S+)", t)[1] for t in INVALID} == set(CODES)  # type: ignore[index]


@pytest.mark.parametrize("number", range(len(VALID)))
def test_a_valid_program_runs_and_prints_as_itself(number: int) -> None:
    text = VALID[number]
    assert [d for d in qkv.ein.check(text) if d["severity"] == "error"] == []
    once = qkv.ein.fmt(text)
    assert qkv.ein.fmt(once) == once
    assert bare(parsed(once)) == bare(parsed(text)) == bare(parsed(printed(parsed(text))))
    f = last(qkv.ein.source(text))
    args, extra = arguments(f.definition, SIZES, 0)  # type: ignore[attr-defined]
    out = f(*args, **extra)  # type: ignore[operator]
    again = last(qkv.ein.source(once))(*args, **extra)  # type: ignore[operator]
    for mine, other in zip(
        out if isinstance(out, tuple) else (out,), again if isinstance(again, tuple) else (again,), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True)


def renamed(text: str) -> str:
    """The program with every coordinate under another name."""
    report = Report(Source(text))
    found, tokens = parse(report.source, report)
    names = {c.name for i in found.items if isinstance(i, tree.Function) for c in i.coordinates}
    made, at = "", 0
    for kind, word, start in zip(tokens.kinds, tokens.texts, tokens.starts, strict=True):
        if kind == "name" and word in names:
            made += text[at:start] + f"{word}_x"
            at = start + len(word)
    return made + text[at:]


@pytest.mark.parametrize("number", range(len(VALID)))
def test_renaming_coordinates_changes_nothing(number: int) -> None:
    text = VALID[number]
    one, other = last(qkv.ein.source(text)), last(qkv.ein.source(renamed(text)))
    args, extra = arguments(one.definition, RENAMED, 1)  # type: ignore[attr-defined]
    changed = {f"{n}_x" if f"{n}_x" in other.definition.formals else n: s for n, s in extra.items()}  # type: ignore[attr-defined]
    a, b = one(*args, **extra), other(*args, **changed)  # type: ignore[operator]
    for mine, theirs in zip(a if isinstance(a, tuple) else (a,), b if isinstance(b, tuple) else (b,), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)


def permuted(text: str, order: random.Random) -> tuple[str, list[list[int]], list[int]]:
    """The last function with the axes of its parameters and its result in another order, everywhere; and the orders."""
    report = Report(Source(text))
    found = parse(report.source, report)[0]
    function = [i for i in found.items if isinstance(i, tree.Function)][-1]
    orders: dict[str, list[int]] = {}
    for p in function.parameters:
        places = list(range(len(p.type.axes or ())))
        order.shuffle(places)
        orders[p.name] = places

    def move(node: object) -> object:
        if isinstance(node, tree.Access) and node.name in orders:
            return node._replace(axes=tuple(move(node.axes[n]) for n in orders[node.name]))  # type: ignore[misc]
        if isinstance(node, tree.Parameter) and node.type.axes is not None:
            return node._replace(type=node.type._replace(axes=tuple(node.type.axes[n] for n in orders[node.name])))
        if isinstance(node, tuple) and hasattr(node, "_fields"):
            return type(node)(*(move(x) for x in node))
        return tuple(map(move, node)) if isinstance(node, tuple) else node

    moved = move(function)
    result = list(range(len(function.results[0].axes or ())))
    items = tuple(moved if i is function else i for i in found.items)
    return printed(tree.Tree(items)), [orders[p.name] for p in function.parameters], result  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [n for n, t in enumerate(VALID) if "let X:" not in t and "let a:" not in t])
def test_the_order_of_axes_changes_nothing(number: int) -> None:
    text = VALID[number]
    changed, orders, _ = permuted(text, random.Random(number))
    one, other = last(qkv.ein.source(text)), last(qkv.ein.source(changed))
    args, extra = arguments(one.definition, SIZES, 2, rest=1)  # type: ignore[attr-defined]
    moved = [a.permute(o) if hasattr(a, "permute") else a for a, o in zip(args, orders, strict=True)]
    a, b = one(*args, **extra), other(*moved, **extra)  # type: ignore[operator]
    for mine, theirs in zip(a if isinstance(a, tuple) else (a,), b if isinstance(b, tuple) else (b,), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("number", range(len(INVALID)))
def test_a_mistake_is_told_in_eight_lines(number: int) -> None:
    text = INVALID[number]
    code = re.match(r"// expect: (\S+)", text)[1]  # type: ignore[index]
    source = Source(text)
    found = [d for d in qkv.ein.check(text) if d["code"] == code]
    assert found, [d["code"] for d in qkv.ein.check(text)]
    assert found[0]["message"] and found[0]["fix"]
    line = source.line(found[0]["line"])
    shown = qkv.ein.report(text).split("\n\n")
    mine = next(s for s in shown if f"[{code}]" in s.splitlines()[0])
    lines = mine.splitlines()
    assert len(lines) <= 8
    assert line[:40].strip() in lines[2] or len(line) > 110
    assert "^" in lines[3]
    if found[0]["severity"] == "error":
        with pytest.raises(qkv.EinError) as raised:
            qkv.ein.source(text)
        assert code in raised.value.codes


@pytest.mark.parametrize("number", range(len(INVALID)))
def test_equal_sizes_give_the_same_verdict(number: int) -> None:
    # The checker has no sizes at all but those that the text fixes, so fixing all to one number changes no verdict.
    text = INVALID[number]
    code = re.match(r"// expect: (\S+)", text)[1]  # type: ignore[index]
    square = re.sub(
        r"fn (\w+)\[([\w, ]+)\]", lambda m: f"fn {m[1]}[{', '.join(f'{n.strip()} = 8' for n in m[2].split(','))}]", text
    )
    assert code in [d["code"] for d in qkv.ein.check(square)]


def test_several_mistakes_of_one_text_are_all_told() -> None:
    text = """fn f[q, k, c](A: [f32; q, c], B: [f32; k, c]) -> [f32; q, c] {
    let s[q, k] = sum[c](A[q, c] * B[q, c]);
    let t[q, k] = softmax[z](s[q, k];
    let u[q, k] = s[q, k] && true;
    sum[k](u[q, k] * B[k, c]
}
fn g[q](A: [f32; q]) -> [f32] { sum[r](A[q]) }
"""
    codes = [d["code"] for d in qkv.ein.check(text)]
    assert codes.count("syntax") == 2 and "wrong-coordinate" in codes and "unknown-coordinate" in codes
