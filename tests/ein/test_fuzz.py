"""No text crashes or hangs the lexer, the parser, the checker or the formatter."""

from __future__ import annotations

import platform
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qkv
from qkv import limits

HAS_WHEELS = sys.platform == "linux" and platform.machine() == "x86_64" and sys.version_info < (3, 14)
PROGRAMS = (Path(__file__).with_name("golden") / "valid.txt").read_text(encoding="utf-8").strip().split("\n\n----\n")
WORDS = [
    "fn",
    "let",
    "use",
    "if",
    "else",
    "as",
    "where",
    "true",
    "false",
    "inf",
    "in",
    "X",
    "Y",
    "f",
    "q",
    "k",
    "c",
    "..b",
    "[",
    "]",
    "(",
    ")",
    "{",
    "}",
    ",",
    ";",
    ":",
    "::",
    "#",
    "+",
    "-",
    "*",
    "/",
    "%",
    "**",
    "<",
    "<=",
    "==",
    "!=",
    "&&",
    "||",
    "!",
    "->",
    "=",
    "..",
    "0",
    "1",
    "2.5",
    "1e9",
    "f32",
    "bool",
    "i64",
    "sum",
    "softmax",
    "max",
    "concat",
    "only",
    "size",
    "given",
    "strategy",
    "std",
    "exp",
    "//",
    "\n",
]


def harmless(text: str) -> None:
    """Checks, and formats what can be read; only the errors that are meant may be raised."""
    found = qkv.ein.check(text)
    assert all(d["code"] and d["message"] for d in found)
    for shown in qkv.ein.report(text).split("\n\n") if found else []:
        assert len(shown.splitlines()) <= 8
    try:
        once = qkv.ein.fmt(text)
    except qkv.EinError:
        return
    assert qkv.ein.fmt(once) == once


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    harmless(text)


def test_what_a_terminal_would_obey_is_shown_as_a_sign() -> None:
    (shown,) = qkv.ein.report("a\r\x85\x1b[2J").split("\n\n")[:1]
    assert len(shown.splitlines()) <= 8
    assert "\r" not in shown
    assert "\x1b" not in shown


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join))
def test_any_words(text: str) -> None:
    harmless(text)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(PROGRAMS), st.data())
def test_a_program_with_words_changed(text: str, data: st.DataObject) -> None:
    words = (
        text.replace("[", " [ ")
        .replace("]", " ] ")
        .replace(",", " , ")
        .replace("(", " ( ")
        .replace(")", " ) ")
        .split(" ")
    )
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(words) - 1))
        words[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.lists(st.sampled_from([*WORDS, *words[:20]]), max_size=2)
        )
    harmless(" ".join(words))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_in_a_file(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "x.ein"
    path.write_bytes(data)
    try:
        qkv.ein.load(path)
    except qkv.EinError as error:
        assert str(error)


def mutated(data: bytes, numbers: random.Random) -> bytes:
    """The bytes with one to four places changed: flipped, taken out, doubled, put in, or copied from elsewhere."""
    found = bytearray(data)
    for _ in range(numbers.randint(1, 4)):
        at = numbers.randrange(len(found)) if found else 0
        long = numbers.randint(1, 12)
        kind = numbers.randrange(6)
        if kind == 0:
            found[at : at + 1] = bytes([found[at] ^ 1 << numbers.randrange(8)]) if found else b"x"
        elif kind == 1:
            del found[at : at + long]
        elif kind == 2:
            found[at:at] = found[at : at + long]
        elif kind == 3:
            found[at:at] = bytes(numbers.randrange(256) for _ in range(numbers.randint(1, 3)))
        elif kind == 4:
            found[at:at] = numbers.choice(WORDS).encode()
        else:
            other = numbers.randrange(len(found) + 1)
            found[at : at + long] = found[other : other + numbers.randint(0, 12)]
    return bytes(found)


@pytest.mark.parametrize("part", range(4))
def test_mutated_bytes_of_programs_give_errors_with_a_place_and_no_crash(part: int, tmp_path: Path) -> None:
    numbers = random.Random(1000 + part)
    path = tmp_path / "x.ein"
    failed = 0
    for case in range(1000):
        data = mutated(numbers.choice(PROGRAMS).encode(), numbers)
        path.write_bytes(data)
        try:
            qkv.ein.load(path)
        except qkv.EinError as error:
            failed += 1
            if "not text in UTF-8" in str(error):
                continue
            assert error.diagnostics, f"case {case} of part {part}: {data!r}"
            lines = data.decode().count("\n") + 1
            for found in error.diagnostics:
                place = f"case {case} of part {part}: {found}"
                assert 1 <= found["line"] <= lines and found["column"] >= 1, place
                assert (found["end_line"], found["end_column"]) > (found["line"], found["column"]), place
        except Exception as error:
            raise AssertionError(f"case {case} of part {part}: {data!r}") from error
    assert failed > 300  # a mutation that nothing notices tests nothing


@pytest.mark.skipif(not HAS_WHEELS, reason="atheris has wheels for Linux on x86-64, up to Python 3.13")
def test_texts_found_by_coverage(tmp_path: Path) -> None:
    """The golden programs and what a guided fuzzer makes of them; ``guided.py`` by hand goes on from here."""
    for n, text in enumerate(PROGRAMS):
        (tmp_path / f"{n}.ein").write_text(text, encoding="utf-8")
    words = tmp_path.with_suffix(".words")
    words.write_text(
        "".join(f'"{word}"\n' for word in WORDS if re.fullmatch(r"[!-~]+", word) and '"' not in word), encoding="utf-8"
    )
    guided = Path(__file__).with_name("guided.py")
    options = ["-runs=5000", "-seed=1", "-max_len=600", "-timeout=30", f"-dict={words}", f"-artifact_prefix={words}"]
    ran = subprocess.run([sys.executable, guided, tmp_path, *options], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    kept = int(re.findall(r"corp: (\d+)/", ran.stderr)[-1])
    assert kept > len(PROGRAMS) // 4, "nothing is instrumented: no text was kept for the way it takes"


@pytest.mark.parametrize(
    "text",
    [
        "fn f[h, d, m](A: [f32; (h, d)]) -> [f32; m] { A[(h  d) as m] }",
        "fn f[h](A: [f32; (h,)]) -> [f32; h] { A[(h,)] }",
    ],
    ids=["a merge that says no order, renamed", "a merge of one"],
)
def test_what_the_formatter_writes_of_odd_axes_is_read_again(text: str) -> None:
    harmless(text)


def test_what_is_wrong_with_a_signature_is_told_once() -> None:
    text = """fn g[q, c](A: [f32; b, q, c]) -> [f32; q] { sum[c](A[q, c]) }
fn f[q, c](A: [f32; ..b, q, c]) -> [f32; ..b, q] { g[q, c](A) }"""
    assert [d["line"] for d in qkv.ein.check(text)] == [1, 1]


@pytest.mark.parametrize(
    "text",
    [
        "fn f[q](X: [f32; q]) -> [f32; q] { " + "(" * 5000 + "X" + ")" * 5000 + " }",
        "fn f[q](X: [f32; q]) -> [f32; q] { " + "-" * 5000 + "X }",
        "fn f[q](X: [f32; q]) -> [f32; q] { " + " + ".join(["X"] * 5000) + " }",
        "fn f[q](X: [f32; q]) -> [f32; q] { " + "if q > 0 { " * 5000,
        "fn f[q](X: [f32; q]) -> [f32; q] { X" + " as f32" * 5000 + " }",
        "fn f[q](X: [f32; q]) -> [f32; q] { " + "X ** " * 5000 + "X }",
        "let " * 5000,
        "fn f[" + ", ".join(f"q{n}" for n in range(5000)) + "](",
        "a" * 100_000,
        "[" * 20_000,
    ],
    ids=range(10),
)
def test_hostile_shapes_are_refused_with_a_message(text: str) -> None:
    assert any(d["severity"] == "error" for d in qkv.ein.check(text))


def test_a_text_too_long_is_refused() -> None:
    found = qkv.ein.check(" " * (limits.EIN_CHARACTERS + 1))
    assert [d["code"] for d in found] == ["limit"]


def test_blanks_take_time_in_their_number() -> None:
    text = "fn f[q](X: [f32; q]) -> [f32; q] { X[q] }"
    for padded in (text + " \n\t" * 100_000, " \n" * 100_000 + text, text.replace(" ", " " * 10_000), " " * 200_000):
        started = time.perf_counter()
        assert qkv.ein.check(padded) == ()
        assert time.perf_counter() - started < 2


def test_calls_that_double_are_refused() -> None:
    text = "fn f0[q](x: [f32; q]) -> [f32; q] { exp(x) }\n"
    for n in range(1, 24):
        text += f"fn f{n}[q](x: [f32; q]) -> [f32; q] {{ f{n - 1}[q](f{n - 1}[q](x) * {n}) }}\n"
    f = qkv.ein.source(text)["f23"]
    import torch

    with pytest.raises(qkv.LimitError, match="written out"):
        f(torch.ones(2))
