"""``qkv ein``: every command, as text and as JSON; the grammar for editors; audits, gradients and stubs."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
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


SUMMED = """fn biased[h, g, q, k, d, e](
    Q: [f32; h, g, q, d], K: [f32; h, k, d], V: [f32; h, k, e], b: [f32; h], M: [i64; k],
) -> [f32; h, g, q, e] {
    let s[h, g, q, k] = sum[d](Q[h, g, q, d] * K[h, k, d]) + b[h];
    sum[k](softmax[k](if M[k] > 0 { s[h, g, q, k] } else { -inf }) * V[h, k, e])
}
fn scaled[q, c](X: [f32; q, c], W: [f32; c]) -> [f32; c] { sum[q](X[q, c]) * W[c] }
fn own[t, q, k, c](X: [f32; t, c]) -> [f32; q, c] {
    sum[k](softmax[k](sum[c](X[t as q, c] * X[t as k, c])) * X[t as k, c])
}
fn named[t, q, c](X: [f32; t, c], Y: [f32; q]) -> [f32; q, c] { X[t as q, c] * Y[q] }
"""


def test_audit_says_what_gradients_are_summed_over() -> None:
    module = qkv.ein.source(SUMMED)
    told = {name: qkv.ein.audit(module[name])["gradients"] for name in module}
    assert told == {
        "biased": {"Q": ["e", "k"], "K": ["e", "g", "q"], "V": ["g", "q"], "b": ["e", "g", "k", "q"]},
        "scaled": {"X": [], "W": []},
        "own": {"X": ["k", "q"]},
        "named": {"X": [], "Y": ["c"]},
    }


def test_grad_writes_a_text_that_checks_and_says_what_it_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.ein"
    path.write_text(
        "fn f[i, j](A: [f64; i, j], x: [f64; j]) -> [f64; i] { sum[j](A[i, j] * x[j]) }\n"
        "fn g[i](A: [f64; ..b, i]) -> [f64; i] { prod[..b](A[..b, i]) }\n"
    )
    made = RUN.invoke(app, ["ein", "grad", str(path)])
    assert made.exit_code == 1
    assert list(qkv.ein.source(made.output)) == ["f_gradients"]
    assert "// the gradients of g cannot be written: the gradient of prod over a rest" in made.output
    data = json.loads(RUN.invoke(app, ["ein", "grad", str(path), "--json"]).output)
    assert list(data["gradients"]) == ["f"] and list(data["refused"]) == ["g"]
    assert RUN.invoke(app, ["ein", "grad", str(path), "--fn", "f"]).exit_code == 0


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
