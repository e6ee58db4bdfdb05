"""transformers is an extra: qkv works without it, and says how to get it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from qkv.errors import ModelError
from qkv.transformers import MissingExtra, extra

WITHOUT = """
import importlib.abc, importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "transformers" else real(name, package)
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_importing_qkv_imports_no_transformers() -> None:
    assert (
        run("import sys, qkv; print('transformers' in sys.modules, 'qkv.transformers' in sys.modules)")
        == "False False\n"
    )


def test_without_it_the_message_says_what_to_install() -> None:
    told = run(WITHOUT + "import qkv\nimport qkv.transformers")
    assert "MissingExtra: qkv.transformers needs Hugging Face transformers, which is not installed." in told
    assert "pip install 'qkv[transformers]'" in told


def test_an_old_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.__version__", "4.57.1")
    with pytest.raises(MissingExtra, match=r"needs transformers 5\.0 or newer, and 4\.57\.1 is installed"):
        extra.require()


def test_it_is_caught_as_an_import_error_too() -> None:
    assert issubclass(MissingExtra, ImportError) and issubclass(MissingExtra, ModelError)
