"""``qkv table`` as a terminal, a pipe and a program see it."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

import qkv
from qkv.cli import app
from qkv.mechanisms import five_tokens

GOLDEN = json.loads((Path(__file__).parents[1] / "mechanisms" / "fifteen.json").read_text(encoding="utf-8"))
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Runs a command; returns its exit status, stdout and stderr."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)

    def invoke(*arguments: str, **environment: str) -> tuple[int, str, str]:
        found = CliRunner().invoke(app, list(arguments), env=environment)
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        return found.exit_code, found.stdout, found.stderr

    return invoke


@pytest.fixture
def falsified(monkeypatch: pytest.MonkeyPatch) -> None:
    """One published number is another one."""
    data = copy.deepcopy(GOLDEN)
    data["expected"]["alibi"][0] = 0.4352
    monkeypatch.setattr(five_tokens, "data", lambda: data)


def test_the_published_rows_and_exit_status_0(run: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = run("table")
    assert (status, err) == (0, "")
    summary = out[out.index("The published row") :].splitlines()
    numbers = [re.findall(r"\d\.\d{4}", line) for line in summary[1:16]]
    assert numbers == [[f"{x:.4f}" for x in row] for row in GOLDEN["expected"].values()]
    assert all(line.count("✓") == 2 for line in summary[1:16])
    assert summary[16:] == [
        "✓ 15 of 15 published rows met to four decimals by strategy reference",
        "✓ 15 of 15 published rows met to four decimals by strategy chunked",
    ]


@pytest.mark.parametrize("strategy", ["reference", "chunked"])
def test_one_strategy(run: Callable[..., tuple[int, str, str]], strategy: str) -> None:
    status, out, _ = run("table", "--strategy", strategy)
    assert status == 0
    assert out.count("of 15 published rows") == 1
    assert out.endswith(f"strategy {strategy}\n")


@pytest.mark.usefixtures("falsified")
def test_a_missed_row_is_exit_status_1(run: Callable[..., tuple[int, str, str]]) -> None:
    status, out, _ = run("table")
    assert status == 1
    lines = out.splitlines()
    place = next(n for n, line in enumerate(lines) if re.match(r" 9 ALiBi .*0\.4351", line))
    assert lines[place].count("✗") == 2
    assert lines[place + 1].split() == ["published", "0.4352", "0.2541", "0.2703", "0.0567"]
    assert lines[place + 1].index("0.4352") == lines[place].index("0.4351")
    assert max(cell_len(line) for line in lines) <= 80
    assert "✗ 14 of 15 published rows met to four decimals by strategy chunked" in out
    assert run("table", "--json")[0] == 1


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_it_fits_the_terminal(run: Callable[..., tuple[int, str, str]], columns: int) -> None:
    _, out, _ = run("table", COLUMNS=str(columns))
    lines = out.splitlines()
    assert max(cell_len(line) for line in lines) <= columns
    beside = [line for line in lines if line.startswith(" 1 scaled dot product") and "2 multi-head" in line]
    assert bool(beside) == (columns >= 120)
    assert not any(line.endswith(" ") for line in lines)


def test_every_token_has_its_weights_and_output(run: Callable[..., tuple[int, str, str]]) -> None:
    _, out, _ = run("table", COLUMNS="80")
    block = out[out.index(" 3 causal") : out.index(" 4 cross")].splitlines()
    assert " ".join(line.strip() for line in block[1:3]) == qkv.mechanisms.get("causal").layers[0].formula
    assert block[3].split() == ["The", "cat", "sat", "on", "mat", "output"]
    assert block[4] == "The █1.0  .00  .00  .00  .00  1.0000 0.0000 0.0000 0.0000"
    assert block[5] == "cat ▇.82 ▁.18  .00  .00  .00  0.8176 0.1824 0.0000 0.0000 ✓"
    assert [line.split()[0] for line in block[4:9]] == GOLDEN["tokens"]


def test_heads_have_a_map_each(run: Callable[..., tuple[int, str, str]]) -> None:
    _, out, _ = run("table", COLUMNS="80")
    assert out.count("head 1 and output") == out.count("head 2\n") == 3


def test_a_pipe_gets_no_escapes(run: Callable[..., tuple[int, str, str]]) -> None:
    assert "\x1b" not in run("table")[1]


def test_colours_where_they_are_seen_and_not_with_no_color(run: Callable[..., tuple[int, str, str]]) -> None:
    plain = run("table")[1]
    coloured = run("table", FORCE_COLOR="1", TERM="xterm-256color", COLORTERM="truecolor")[1]
    assert "\x1b[38;2;" in coloured
    assert "48;2;20;66;114m" in coloured
    assert "▇" not in coloured
    without = run("table", FORCE_COLOR="1", TERM="xterm-256color", NO_COLOR="1")[1]
    assert not re.search(r"\x1b\[[0-9;]*(3|4)[0-9]", without)
    assert ESCAPE.sub("", without) == plain


def test_json_is_complete(run: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = run("table", "--json")
    assert (status, err) == (0, "")
    data = json.loads(out)
    assert list(data) == ["tokens", "published_token", "met", "mechanisms"]
    assert data["tokens"] == GOLDEN["tokens"]
    assert data["published_token"] == "cat"
    assert data["met"] == {"reference": 15, "chunked": 15}
    assert {m["name"]: m["published"] for m in data["mechanisms"]} == GOLDEN["expected"]
    for mechanism in data["mechanisms"]:
        assert list(mechanism) == [
            "name",
            "title",
            "formula",
            "source",
            "cache_per_token",
            "published",
            "computed",
        ]
        assert all(mechanism[key] for key in mechanism)
        for computed in mechanism["computed"].values():
            assert computed["met"] is True
            assert [len(row) for row in computed["output"]] == [4] * 5
            assert [f"{x:.4f}" for x in computed["output"][1]] == [f"{x:.4f}" for x in mechanism["published"]]
            assert all([len(row) for row in head] == [5] * 5 for head in computed["weights"])


def test_a_picture(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "maps.png"
    status, out, _ = run("table", "--png", str(path))
    assert status == 0
    assert out.endswith(f"heat maps: {path}\n")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size[0] > 1000
        assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 100
    assert json.loads(run("table", "--json", "--png", str(path))[1])["met"]["chunked"] == 15


def test_a_picture_that_cannot_be_written(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    path = tmp_path / "missing" / "maps.png"
    assert run("table", "--png", str(path)) == (2, "", f"qkv: cannot write {path}: No such file or directory.\n")


def test_a_strategy_that_is_unknown_or_cannot(run: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = run("table", "--strategy", "fast")
    assert (status, out) == (2, "")
    assert err.startswith('qkv: strategy "fast" is not known. Known: reference, chunked')
    assert err.count("\n") == 1
    status, out, err = run("table", "--strategy", "linear")
    assert (status, out) == (2, "")
    assert err.startswith('qkv: scaled dot product: strategy "linear" cannot run this spec.')
    assert err.count("\n") == 1


def test_an_output_without_ticks_says_words() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    found = subprocess.run([sys.executable, "-m", "qkv", "table"], env=environment, capture_output=True, check=True)
    text = found.stdout.decode("ascii")
    assert "ok 15 of 15 published rows met to four decimals by strategy chunked" in text
    assert found.stderr == b""


def test_a_reader_that_leaves_early_sees_no_traceback() -> None:
    command = f"{sys.executable} -m qkv table | head -n 1"
    found = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert found.stdout == b" 1 scaled dot product\n"
    assert b"Traceback" not in found.stderr
