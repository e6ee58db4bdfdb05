"""``qkv ein``: every command, as text and as JSON; the grammar for editors; audits, gradients and stubs."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import qkv
from qkv.cli.app import app
from qkv.ein.door import library_files, library_text
from qkv.ein.reader import ELEMS, KEEPING, REDUCTIONS
from qkv.ein.tokens import KEYWORDS

RUN = CliRunner()
WRONG = "fn f[q, k](A: [f32; q, k]) -> [f32; q] { sum[k](A[k, q]) }\n"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "attention.ein"
    path.write_text(library_text("attention"), encoding="utf-8")
    return path


@pytest.mark.parametrize("command", ["check", "run", "fmt", "explain", "stub", "audit", "grad"])
def test_every_command_speaks_and_speaks_json(library: Path, command: str) -> None:
    plain = RUN.invoke(app, ["ein", command, str(library)])
    assert plain.exit_code == 0, plain.output
    data = RUN.invoke(app, ["ein", command, str(library), "--json"])
    assert data.exit_code == 0, data.output
    json.loads(data.output)


def test_check_shows_mistakes_and_says_so_by_its_status(tmp_path: Path) -> None:
    path = tmp_path / "wrong.ein"
    path.write_text(WRONG)
    shown = RUN.invoke(app, ["ein", "check", str(path)])
    assert shown.exit_code == 1
    assert "error[wrong-coordinate]: A has q on this axis, and k indexes it." in shown.output
    assert "write: A[q, k]" in shown.output
    data = json.loads(RUN.invoke(app, ["ein", "check", str(path), "--json"]).output)
    assert (data[0]["code"], data[0]["line"], data[0]["column"]) == ("wrong-coordinate", 1, 51)
    assert RUN.invoke(app, ["ein", "check", str(tmp_path / "none.ein")]).exit_code == 2


def test_fmt_changes_a_file_once(tmp_path: Path) -> None:
    path = tmp_path / "x.ein"
    path.write_text("// head\nfn f[q](A:[f32;q])->[f32]{ // why\n  let b[q]=A[q]*2; // twice\n  sum[q](b[q])\n}\n")
    assert RUN.invoke(app, ["ein", "fmt", "--check", str(path)]).exit_code == 1
    assert RUN.invoke(app, ["ein", "fmt", str(path)]).exit_code == 0
    text = path.read_text()
    assert text == (
        "// head\nfn f[q](A: [f32; q]) -> [f32] {  // why\n    let b[q] = A[q] * 2;  // twice\n    sum[q](b[q])\n}\n"
    )
    assert RUN.invoke(app, ["ein", "fmt", "--check", str(path)]).exit_code == 0


@pytest.mark.parametrize("name", library_files())
def test_the_library_is_in_its_one_spelling_and_has_no_warnings(name: str) -> None:
    text = library_text(name)
    assert qkv.ein.fmt(text) == text
    assert qkv.ein.check(text) == ()


def test_explain_shows_what_was_left_and_why() -> None:
    f = qkv.ein.source(
        "fn f[q, k, e](s: [f32; q, k], V: [f32; k, e]) -> [f32; q, e] { sum[k](softmax[k](s[q, k]) * V[k, e]) }"
    ).f
    told = qkv.ein.explain(f)
    assert told["attention"] == []
    assert told["left"][0]["reason"] == "the scores hold no contraction of queries with keys"


def test_audit_names_the_coordinates() -> None:
    told = qkv.ein.audit(qkv.ein.std("attention").grouped_query)
    assert told["softmax"] == [["k"]]
    assert told["attention"][0]["key"] == ["k"] and told["attention"][0]["feature"] == ["d"]
    assert told["gradients"]["V"] == ["g", "q"]
    assert qkv.ein.audit(qkv.ein.std("cache").append)["concat"] == [{"into": "k", "from": ["past", "new"]}]


def test_gradients_as_einlang_are_the_gradients() -> None:
    f = qkv.ein.source("fn f[i, j, k](A: [f64; i, j], B: [f64; j, k]) -> [f64; i, k] { sum[j](A[i, j] * B[j, k]) }").f
    lines = "\n".join(qkv.ein.gradients(f))
    back = qkv.ein.source(f"let A: [f64; i, j];\nlet B: [f64; j, k];\nlet d_out: [f64; i, k];\n{lines}\n")
    a, b, g = (torch.randn(n, m, dtype=torch.float64, requires_grad=True) for n, m in ((2, 3), (3, 4), (2, 4)))
    expected = torch.autograd.grad(f(a, b), (a, b), g)
    torch.testing.assert_close(back.d_A(B=b, d_out=g), expected[0])
    torch.testing.assert_close(back.d_B(A=a, d_out=g), expected[1])


def test_a_stub_is_python_with_every_function(library: Path) -> None:
    assert RUN.invoke(app, ["ein", "stub", str(library)]).exit_code == 0
    tree = ast.parse(library.with_suffix(".pyi").read_text())
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert found == set(qkv.ein.std("attention"))


def test_the_grammar_for_editors_knows_every_word() -> None:
    grammar = json.loads((Path(__file__).parents[2] / "editors" / "einlang.tmLanguage.json").read_text())
    patterns = [re.compile(p["match"]) for p in grammar["patterns"]]
    for word in KEYWORDS | REDUCTIONS | KEEPING | set(ELEMS):
        text = f"{word}[k](x)" if word in REDUCTIONS | KEEPING else f"{word} f" if word == "fn" else word
        assert any(p.match(text) and word in p.match(text)[0] for p in patterns), word  # type: ignore[index]
