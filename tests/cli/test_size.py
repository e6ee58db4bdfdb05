"""``qkv size``, ``fit``, ``recommend`` and ``flops`` as a terminal and a program see them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qkv.cli import app

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command; returns its exit status, stdout and stderr."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)

    def invoke(*arguments: str) -> tuple[int, str, str]:
        found = CliRunner().invoke(app, list(arguments))
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        return found.exit_code, found.stdout, found.stderr

    return invoke


def test_size(run: Run) -> None:
    status, out, err = run(
        "size", "deepseek-v3", "--context", "128k", "--batch", "8", "--dtype", "fp8", "--policy", "paged"
    )
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "deepseek-v3: 61 latent layers",
        "context 128k tokens, batch 8, fp8",
        "policy                kind     layers      tokens   B/token                 bytes",
        "paged                 latent       61     131,072       576      36,842,766,336 B",
        "paged                 in all                                     36,842,766,336 B = 34.31 GiB",
    ]


def test_size_as_json_of_several_models_and_policies(run: Run) -> None:
    arguments = ("llama-3-8b", "gemma-2-9b", "--policy", "math", "--policy", "llama.cpp", "--json", "--why")
    status, out, _ = run("size", *arguments)
    assert status == 0
    data = json.loads(out)
    assert [item["model"] for item in data] == ["llama-3-8b", "gemma-2-9b"]
    assert [size["policy"] for size in data[0]["sizes"]] == ["math", "llama.cpp"]
    assert data[0]["sizes"][0]["bytes"] == 1_073_741_824
    assert data[1]["sizes"][0]["bytes"] == 2_113_929_216
    assert sum(group["bytes"] for group in data[1]["sizes"][0]["groups"]) == 2_113_929_216
    assert data[1]["used"]["sliding_window"] == 4096
    assert data[1]["notes"] == [
        "layer_types is not in the config: layers 0, 2, 4, ... are windowed, as its class has it"
    ]


def test_size_says_why(run: Run) -> None:
    status, out, _ = run("size", "gemma-2-9b", "--why")
    assert status == 0
    for line in (
        "policy math: the least that must be stored",
        "  704,643,072 B = 21 layers x 4,096 tokens x 8 heads x (256 + 256) x 2 bytes",
        "  1,409,286,144 B = 21 layers x 8,192 tokens x 8 heads x (256 + 256) x 2 bytes",
        "keys used (config.json of google/gemma-2-9b (huggingface.co))",
        "  sliding_window = 4096",
    ):
        assert line in out.splitlines()


def test_size_of_a_file_and_the_list(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    keys = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4}
    file.write_text(json.dumps(keys))
    status, out, _ = run("size", str(tmp_path), "--context", "10", "--json")
    assert (status, json.loads(out)[0]["sizes"][0]["bytes"]) == (0, 2 * 10 * 2 * 64 * 2)
    status, out, _ = run("size", "--list")
    assert status == 0
    assert len(out.splitlines()) >= 30
    assert "config.json of deepseek-ai/DeepSeek-V3 (huggingface.co)" in out
    assert len(json.loads(run("size", "--list", "--json")[1])) == len(out.splitlines())


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_size_draws(run: Run, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"curves.{ending}"
    status, out, _ = run("size", "llama-3-8b", "gemma-3-27b", "--context", "32k", "--plot", str(path))
    assert status == 0
    assert out.endswith(f"curves: {path}\n")
    assert path.stat().st_size > 1000
    missing = tmp_path / "gone" / f"x.{ending}"
    assert run("size", "llama-3-8b", "--plot", str(missing)) == (
        2, "", f"qkv: cannot write {missing}: No such file or directory.\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("size",),
            "qkv: no model is given. Give a config.json, a .gguf file or a name: qkv size --list shows them.\n",
        ),
        (
            ("size", "nope"),
            'qkv: "nope" is no known model, and no file. Give a config.json, its directory, a .gguf file or a name: '
            "qkv size --list shows them.\n",
        ),
        (("size", "gpt2", "--context", "0"), "qkv: context=0 is too small. It is at least 1.\n"),
        (("fit", "gpt2", "0"), "qkv: memory=0 is too small. It is at least 1.\n"),
        (("size", "gpt2", "--context", "x"), "qkv: context='x' is no size. Write it as 4096, 128k or 1m.\n"),
        (
            ("fit", "gpt2", "1 parsec"),
            "qkv: memory='1 parsec' is no size. Write it as 24GiB, 80GB or 1073741824.\n",
        ),
        (("flops", "gpt2", "--convention", "odd"), 'qkv: convention "odd" is not known. Known: exact, half, full.\n'),
        (("recommend", "free", "--first", "speed"), 'qkv: first="speed" is not known. Known: quality, memory.\n'),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(run: Run, arguments: tuple[str, ...], message: str) -> None:
    assert run(*arguments) == (2, "", message)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"hidden_size": "wide"}'])
def test_an_odd_config_is_one_line_and_exit_status_2(run: Run, tmp_path: Path, content: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(content)
    for command in (("size", str(file)), ("flops", str(file)), ("fit", str(file), "1GiB")):
        status, out, err = run(*command)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("qkv: ")


def test_fit(run: Run) -> None:
    status, out, _ = run("fit", "llama-3-8b", "24GiB", "--reserve", "16GiB", "--policy", "math", "--policy", "paged")
    assert status == 0
    assert out.splitlines() == [
        "llama-3-8b: 8 GiB for the cache, bf16",
        "math                  batch 1: context 65,536 tokens takes 8,589,934,592 B; one more takes 8,590,065,664 B",
        "                      the config names 8,192 positions, fewer than that",
        "paged                 batch 1: context 65,536 tokens takes 8,589,934,592 B; one more takes 8,592,031,744 B",
        "                      the config names 8,192 positions, fewer than that",
    ]
    status, out, _ = run("fit", "llama-3-8b", "24GiB", "--context", "8k", "--json")
    assert json.loads(out)[0]["value"] == 24
    assert "not even one token fits, which takes 36,864 B" in run("fit", "gpt2", "1KiB")[1]
    assert "any context fits" in run("fit", "mistral-7b-v0.1", "1GiB")[1]


def test_flops(run: Run) -> None:
    status, out, _ = run("flops", "llama-3-8b", "--context", "2k", "--convention", "full", "--on", "h100")
    assert status == 0
    assert "scores                           1,099,511,627,776   2 x 4,194,304 pairs x 32 heads x 128" in out
    assert "compute binds" in out
    data = json.loads(run("flops", "llama-3-8b", "--context", "8k", "--queries", "1", "--on", "h100", "--json")[1])
    assert data["roofs"][0]["bound"] == "memory"
    assert data["flops"] == sum(data["parts"].values())
    assert "state maps" in run("flops", "jamba-v0.1")[1]
    assert "latents absorbed" in run("flops", "deepseek-v3", "--queries", "1")[1]


def test_recommend(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "stacks.svg"
    status, out, err = run("recommend", "serving", "--plot", str(path))
    assert (status, err) == (0, "")
    assert "recommended: grouped-query, local and global" in out
    assert "  multi-head: cache reads: a decoded token reads 512 GiB of cache" in out
    assert "arXiv 2503.19786" in out
    assert path.read_text(encoding="utf-8").startswith("<svg")
    data = json.loads(run("recommend", "serving", "--json")[1])
    assert data["recommended"] == "grouped-query, local and global"
    assert data["mechanisms"] == ["sliding-window", "grouped-query"]
    assert [item["ruled_out"] is None for item in data["candidates"]].count(True) == 1
    small = run("recommend", "free", "--memory", "1KiB", "--first", "memory")[1]
    assert "not met: memory:" in small
