"""``qkv generate`` with a tiny model: text, speeds, comparison, and one clear line for what cannot be used."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("transformers")

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import qkv.transformers
from qkv.cli import app

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama with random weights that reads and writes bytes."""
    folder = tmp_path_factory.mktemp("tiny")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE(vocab={c: n for n, c in enumerate([*letters, "<end>"])}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=256,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def run() -> Run:
    """Runs ``qkv generate``; returns its exit status, stdout and stderr."""

    def invoke(*arguments: str) -> tuple[int, str, str]:
        found = CliRunner().invoke(app, ["generate", *arguments])
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        return found.exit_code, found.stdout, found.stderr

    return invoke


def test_text_on_stdout_and_speed_on_stderr(run: Run, tiny: Path) -> None:
    status, out, err = run("Hello there", "--model", str(tiny), "--max-new-tokens", "6")
    assert status == 0
    assert out.endswith("\n")
    assert len(out) > 1
    assert "attention" not in out
    lines = err.splitlines()
    assert re.fullmatch(r".*, 0 million weights, 11 tokens of prompt", lines[-3])
    assert lines[-2].split() == ["attention", "tokens", "first", "token", "tokens", "per", "second"]
    assert re.fullmatch(r"qkv +6 +\d+\.\d\d s +\d+\.\d", lines[-1])


def test_compared_with_sdpa(run: Run, tiny: Path) -> None:
    status, out, _ = run("Hello there", "--model", str(tiny), "--max-new-tokens", "6", "--compare")
    assert status == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[-3:-1]] == ["qkv", "sdpa"]
    assert lines[-1] == "✓ all 6 tokens agree"


def test_json(run: Run, tiny: Path) -> None:
    status, out, _ = run("Hello there", "--model", str(tiny), "--max-new-tokens", "6", "--compare", "--json")
    assert status == 0
    data = json.loads(out)
    assert list(data) == ["model", "prompt", "num_prompt_tokens", "runs", "agree", "num_agreed_tokens"]
    assert data["model"]["path"] == str(tiny)
    assert data["model"]["num_weights"] > 1000
    assert (data["prompt"], data["num_prompt_tokens"]) == ("Hello there", 11)
    assert (data["agree"], data["num_agreed_tokens"]) == (True, 6)
    assert list(data["runs"]) == ["qkv", "sdpa"]
    for one in data["runs"].values():
        assert list(one) == ["text", "tokens", "ended", "first_token_s", "rest_s", "tokens_per_s"]
        assert len(one["tokens"]) == 6
        assert one["first_token_s"] > 0
    alone = json.loads(run("Hello there", "--model", str(tiny), "--max-new-tokens", "6", "--json")[1])
    assert list(alone["runs"]) == ["qkv"]
    assert alone["runs"]["qkv"]["tokens"] == data["runs"]["qkv"]["tokens"]


def test_tokens_that_differ_are_exit_status_1(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = qkv.transformers.generate

    def different(*arguments: Any, attn: str | None = None, **options: Any) -> Any:
        written = real(*arguments, attn=attn, **options)
        tokens = written.tokens
        return replace(written, tokens=(*tokens[:4], -1, *tokens[5:])) if attn and len(tokens) > 4 else written

    monkeypatch.setattr(qkv.transformers, "generate", different)
    monkeypatch.setattr("qkv.transformers.generation.generate", different)
    arguments = ("Hello", "--model", str(tiny), "--max-new-tokens", "6", "--compare")
    status, out, _ = run(*arguments)
    assert status == 1
    assert out.splitlines()[-1] == "✗ the tokens differ after 4 of 6"
    status, out, _ = run(*arguments, "--json")
    assert status == 1
    assert (json.loads(out)["agree"], json.loads(out)["num_agreed_tokens"]) == (False, 4)


def one_line(found: tuple[int, str, str]) -> str:
    """The line of a command that could not use what it was given."""
    status, out, err = found
    assert (status, out) == (2, "")
    assert err.startswith("qkv: ")
    assert err.count("\n") == 1, err
    return err


def test_a_path_that_does_not_exist(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "nowhere"
    assert one_line(run("Hi", "--model", str(path))).startswith(f"qkv: there is no model at this path. {path} ")


def test_a_truncated_gguf(run: Run, tmp_path: Path) -> None:
    from qkv.transformers.load import packaged_model

    whole = packaged_model()
    for size in (3, 1000, 5_000_000):
        cut = tmp_path / f"cut-{size}.gguf"
        with whole.open("rb") as stream:
            cut.write_bytes(stream.read(size))
        assert str(cut) in one_line(run("Hi", "--model", str(cut)))


def test_a_wrong_architecture(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}', encoding="utf-8")
    assert "a 'vit' model does not generate text" in one_line(run("Hi", "--model", str(tmp_path)))


def test_an_empty_prompt(run: Run, tiny: Path) -> None:
    assert one_line(run(" ", "--model", str(tiny))).startswith("qkv: the prompt is empty.")


def test_no_tokens_at_all_is_a_usage_error(run: Run, tiny: Path) -> None:
    status, _, err = run("Hi", "--model", str(tiny), "--max-new-tokens", "0")
    assert status == 2
    assert "--max-new-tokens" in err


def test_stopping_it_is_quiet(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(path: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qkv.cli.generate.load", stop)
    assert run("Hi") == (130, "", "")


def test_text_cannot_steer_the_terminal() -> None:
    from qkv.cli.generate import harmless

    assert harmless("a\x1b[2Jb\x07\nü\t雪\x9b") == "a\ufffd[2Jb\ufffd\nü\t雪\ufffd"
