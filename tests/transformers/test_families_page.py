"""The list of families in the documentation is the script's, and says what the tests here see."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from tests.transformers import families

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "transformers-families.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_script_says_of_a_family_what_becomes_of_it() -> None:
    script = [sys.executable, str(ROOT / "scripts" / "transformers_families.py"), "llama", "bloom", "mamba", "vit"]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    rows = {line.split(" | ")[0]: line.split(" | ")[4] for line in done.stdout.splitlines()}
    assert rows == {
        "bloom": "does not route",
        "llama": "agrees",
        "mamba": "no attention of its own",
        "vit": "agrees",
    }


def test_the_page_agrees_with_the_tests() -> None:
    if f"for transformers {transformers.__version__}:" not in PAGE:
        pytest.skip("the page was made for another version of transformers; make it again with the script")
    for family in families.DOES_NOT_ROUTE:
        assert f"`{family.name}`" in section("Do not route") + section("Have no attention of their own"), family.name
    for name in ("llama", "mistral", "gemma2", "gpt_oss", "deepseek_v3", "bert", "t5", "whisper", "vit", "diffllama"):
        assert f"`{name}`" in section("Agree"), name
